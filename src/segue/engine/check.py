"""What to expect of a film before it is made: at each gap, whether shapes will move or fade, and why.

What decides is the correspondence that the film itself would use (``method/align.py``), found without a run folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from segue.engine.keyframes import fit_images, load_images, sizes
from segue.engine.points import shared_keypoints
from segue.method.align import align, distance_moved, is_plain
from segue.models.backbone import Backbone
from segue.pictures.images import Source, fit
from segue.pictures.tensors import to_tensor
from segue.pose.found import Detect
from segue.pose.matching import guidance
from segue.settings.kinds import MorphSettings

__all__ = ["Gap", "check_gaps", "expect"]


@dataclass(frozen=True)
class Gap:
    """Two neighbouring keyframes.

    Attributes:
        plain: whether the left and the right keyframe have a plain background; otherwise they are scenes.
        confidence: how sure it is what corresponds, from 0 (nothing does) to 1.
        move: how far shapes move over the gap on average, in per cent of the width.
        people: how many people are in the left and the right keyframe.
        matched: how many of them are matched with somebody in the other one.
        unmatched: one line that says who is left over, or None.
    """

    plain: tuple[bool, bool]
    confidence: float
    move: float
    people: tuple[int, int]
    matched: int
    unmatched: str | None


def check_gaps(images: Sequence[Source], backbone: Backbone, detect: Detect) -> list[Gap]:
    """Look at each gap of a film with the default settings.

    Args:
        images: the keyframes, in order.
        backbone: its network's features say what corresponds.
        detect: finds the people in an image.

    Raises:
        SegueError: there are fewer than two images, or one cannot be used.
    """
    settings = MorphSettings()
    pictures = load_images(images, settings)
    size, network = sizes(pictures, settings, backbone)
    shown = fit_images(pictures, settings, size)
    poses = [detect(picture) for picture in shown]
    tensors = [to_tensor([fit(picture, network, "stretch")]) for picture in shown]
    features = [[feature[0] for feature in backbone.features(tensor)] for tensor in tensors]
    gaps = []
    for i, j in pairwise(range(len(shown))):
        left, right = tensors[i][0], tensors[j][0]
        keypoints = shared_keypoints(poses[i], poses[j]) if backbone.controlnets else []
        found = align(left, right, list(zip(features[i], features[j], strict=True)), keypoints=keypoints)
        guided = guidance(poses[i], poses[j], names=("the left picture", "the right picture"))
        gaps.append(
            Gap(
                plain=(is_plain(left), is_plain(right)),
                confidence=found.confidence,
                move=100 * distance_moved(found, left, right),
                people=(len(poses[i].people), len(poses[j].people)),
                matched=len(guided.pairs),
                unmatched=guided.message,
            )
        )
    return gaps


def expect(gap: Gap, *, is_pocket: bool, has_controlnet: bool) -> list[str]:
    """What a gap means for the film: whether shapes will move, and what else to know; a sentence each."""
    scenes = "both pictures are" if not any(gap.plain) else "one picture is"
    points = "to move shapes, set corresponding points with --points FILE"
    if not gap.confidence:
        lines = [f"the pictures will fade, because {scenes} without a plain background and nothing matches; {points}"]
    elif gap.confidence < 1:
        lines = [f"shapes will move in part and fade in part, because {scenes} without a plain background; {points}"]
    elif not gap.move:
        lines = ["nothing will move: the pictures are the same"]
    else:
        lines = ["shapes will move"]
    if is_pocket and not all(gap.plain):
        lines.append("photograph or scene: pocket was not trained on these; choose a checkpoint with --model")
    if gap.unmatched:
        lines.append(gap.unmatched)
    elif gap.matched and not has_controlnet:
        lines.append("people will move like other shapes; --controlnet with a pose ControlNet guides them")
    return lines
