"""Before a film is made: how far its keyframes are apart, what is likely to go wrong, and which settings to change.

For each pair of neighbouring keyframes, each distance from 0 (the same) upwards:

    layout   mean difference of the brightness on a grid of 8 x 8, over the largest possible one
    style    difference of the means and spreads of the colours, and of how much of the picture is edges
    content  1 - cosine of the CLIP features
    pose     mean distance of the keypoints that both people have, over the larger person's height; none without people

Where a benchmark has shown that these foretell how a film comes out, they are also summed up in one score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segue.errors import SegueError
from segue.models.checkpoints import named
from segue.models.clip import Clip
from segue.pictures.images import fit, load
from segue.pose.detect import Detector, detector_of
from segue.pose.keypoints import Pose, fitted
from segue.pose.matching import area, match

__all__ = [
    "Preflight",
    "Score",
    "advice",
    "check_films",
    "content_distance",
    "layout_distance",
    "pose_distance",
    "preflight",
    "style_distance",
]

SIDE = 128  # pixels that pictures are compared at


@dataclass(frozen=True)
class Preflight:
    """How far two keyframes are apart."""

    layout: float
    style: float
    content: float
    pose: float | None


@dataclass(frozen=True)
class Score:
    """How hard a pair is, on the scale of the benchmark's pairs; its numbers come from ``benchmarks/preflight.py``.

    Attributes:
        layout, style, content: their weights in the sum.
        deciles: the sums below which 0, 10, ... 100 % of the benchmark's pairs lie, 11 of them.
        correlation, low, high: Spearman's rank correlation of the sum with the largest distance of neighbouring frames,
            each pair's by weights from the others, and its 95 % interval; by the network with the weaker one.
    """

    layout: float
    style: float
    content: float
    deciles: tuple[float, ...]
    correlation: float
    low: float
    high: float

    def __call__(self, found: Preflight) -> float:
        """The share of the benchmark's pairs that are easier, 0 to 100."""
        total = self.layout * found.layout + self.style * found.style + self.content * found.content
        return float(np.interp(total, self.deciles, np.linspace(0, 100, len(self.deciles))))


def preflight(
    left: Image.Image, right: Image.Image, clip: Clip, poses: Sequence[Pose | None] = (None, None)
) -> Preflight:
    """Measure how far two keyframes are apart.

    Args:
        left: the keyframe before.
        right: the keyframe after; both are compared at 128 x 128.
        clip: what the contents are compared with.
        poses: the people in them, where somebody looked for them; both in pictures of one size.
    """
    a, b = (fit(picture.convert("RGB"), (SIDE, SIDE), "cover", "white") for picture in (left, right))
    return Preflight(layout_distance(a, b), style_distance(a, b), content_distance(a, b, clip), pose_distance(*poses))


def layout_distance(left: Image.Image, right: Image.Image) -> float:
    """Mean difference of the brightness on a coarse grid, 0 to 1."""
    grids = [np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX), float) for image in (left, right)]
    return float(np.abs(grids[0] - grids[1]).mean() / 255)


def style_distance(left: Image.Image, right: Image.Image) -> float:
    """Mean difference of the statistics of colour and edges, 0 to 1."""
    return float(np.abs(_statistics(left) - _statistics(right)).mean())


def content_distance(left: Image.Image, right: Image.Image, clip: Clip) -> float:
    """1 - cosine of the CLIP features, 0 to 2."""
    features = clip.images([left, right])
    return 1 - float(features[0] @ features[1])


def pose_distance(left: Pose | None, right: Pose | None) -> float | None:
    """Mean distance of shared keypoints of the largest people, over the larger one's height; None without them."""
    if left is None or right is None or not (pairs := match(left, right)):
        return None
    one, other = max(((left.people[i], right.people[j]) for i, j in pairs), key=lambda pair: area(pair[0]))
    shared = one.visible & other.visible
    if not shared.any():
        return None
    apart = np.hypot(*(one.points[shared, :2] - other.points[shared, :2]).T).mean()
    height = max(person.box[3] - person.box[1] for person in (one, other))
    return float(apart / max(height, 1.0))


def advice(found: Preflight, *, with_controlnet: bool) -> list[str]:
    """What is likely to go wrong between two keyframes, and which setting to change; one line each."""
    lines = []
    if found.layout > FAR["layout"]:
        lines.append(
            "the pictures are laid out differently: shapes have far to go, and may show at two places in the middle; "
            "crop them alike, or say with --set points=FILE what corresponds"
        )
    if found.style > FAR["style"]:
        lines.append("the styles differ: colours may rush near a keyframe; use --spacing perceptual or --easing even")
    if found.content > FAR["content"]:
        lines.append(
            "the pictures show different things: give each its --prompt, and --prompt-at 0.5=TEXT for the middle; "
            "--candidates 5 with --rank-for picks the better frames"
        )
    if found.pose is not None and found.pose > FAR["pose"]:
        remedy = "--pose auto guides them" if with_controlnet else "name a pose --controlnet"
        lines.append(f"the people stand differently: limbs may double; {remedy}")
    return lines


# The upper quartiles of the benchmark's pairs, for poses of its figures (python benchmarks/preflight.py).
FAR = {"layout": 0.14, "style": 0.07, "content": 0.57, "pose": 0.2}


# Over the benchmark's 60 pairs (the same command); None would show no score.
SCORE: Score | None = Score(
    layout=1.129,
    style=0.0,
    content=0.373,
    deciles=(0.0403, 0.0777, 0.0915, 0.1203, 0.1665, 0.2169, 0.2751, 0.3534, 0.4009, 0.5265, 0.6894),
    correlation=0.57,
    low=0.35,
    high=0.74,
)


def check_films(images: Sequence[Path], *, detector: Detector | None, model: str | None) -> None:
    """What the command ``segue check`` does: print the distances of neighbours, and what to change.

    Raises:
        SegueError: fewer than two pictures, a picture that cannot be used, or a model or detector that is not there.
    """
    if len(images) < 2:
        raise SegueError(f"a film needs two images or more, not {len(images)}")
    named(model)
    pictures = [load(image, least=8 * SIDE) for image in images]
    clip, poses = Clip.load(), _poses(pictures, detector)
    gaps = zip(images, images[1:], pictures, pictures[1:], poses, poses[1:], strict=False)
    for left_name, right_name, left, right, *pair in gaps:
        found = preflight(left, right, clip, pair)
        shown = [f"{name} {far:.2f}" for name, far in vars(found).items() if far is not None]
        print(f"{left_name} to {right_name}: {', '.join(shown)}")
        if SCORE is not None:
            print(f"  difficulty {SCORE(found):.0f} of 100: of 100 benchmark pairs, so many are likely to jump less")
        lines = advice(found, with_controlnet=model in (None, "pocket"))
        for line in lines or ["nothing unusual: the defaults should do"]:
            print(f"  {line}")


def _poses(pictures: Sequence[Image.Image], detector: Detector | None) -> list[Pose]:
    """The people of each picture, at the size that pictures are compared at."""
    detect = detector_of(detector)
    return [fitted(detect(picture), (SIDE, SIDE)) for picture in pictures]


def _statistics(image: Image.Image) -> NDArray[np.float64]:
    """Mean and spread of each colour channel, and the mean strength of edges, each 0 to 1."""
    pixels = np.asarray(image, float) / 255
    grey = pixels.mean(-1)
    edges = (np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2
    return np.concatenate([pixels.mean((0, 1)), pixels.std((0, 1)), [edges]])
