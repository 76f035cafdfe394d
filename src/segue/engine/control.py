"""What each frame's ControlNet is given (the paper's section 4.3): a drawn pose, or a cross-faded control image.

The pose of a frame lies on the path between the keyframes' poses. Its control's scale rises linearly from 1 at the
keyframes to ``control_scale`` in the middle of the gap, s = 1 + (max - 1)(1 - |2s - 1|), or is flat. Control images of
other kinds (edges, depth, segments) are faded into each other where no better interpolation is defined.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from segue.engine.dialogue import AcceptRest, Again, Candidates, Chooser, Pick
from segue.engine.inputs import check_number
from segue.engine.keyframes import view
from segue.engine.plan import motion_of
from segue.engine.points import read_points, shared_keypoints
from segue.errors import SegueError, warn
from segue.method.align import Match, sample_picture
from segue.method.bend import Bends
from segue.method.conditioning import Control
from segue.method.noise import Noise
from segue.method.schemes import Sample
from segue.method.tree import FrameKey
from segue.models.backbone import Backbone, Sampling
from segue.pictures.images import digest, fit, load
from segue.pictures.tensors import to_images, to_tensor
from segue.pose.detect import detect, detector_of
from segue.pose.drawing import convention_for, draw
from segue.pose.keypoints import Pose, as_openpose, fit_pose, scale_pose, view_pose
from segue.pose.path import PosePath
from segue.run.folder import RunFolder
from segue.run.given import Given, pose_file
from segue.run.journal import Edit
from segue.settings.kinds import MorphSettings

__all__ = [
    "Controls",
    "Edits",
    "control_at",
    "controls_of",
    "find_poses",
    "keep_edit",
    "keep_edits",
    "keypoints_of",
    "read_given",
    "scale_at",
    "tell_unguided",
]

Edits = Mapping[FrameKey, Edit]
Controls = Callable[[Sample, Edits], tuple[Control, ...]]

PHOTOGRAPH = "a photograph of a person, realistic, detailed"  # what a drawing is translated to
PHOTOGRAPH_NOISE = 0.7


def read_given(
    settings: MorphSettings,
    given: Sequence[tuple[int, int]],
    size: tuple[int, int],
    network: tuple[int, int],
    networks: int,
) -> Given:
    """Read the files that the settings name, before anything is written.

    Args:
        settings: their ``pose``, ``control_image`` and ``points``.
        given: (width, height) of each keyframe as it was given, which is that of a pose file that names none.
        size: of the film, (width, height), to which they are fitted as the keyframes are.
        network: at which the model works, to which all are stretched then.
        networks: how many ControlNets there are.

    Raises:
        SegueError: a file is missing or broken, their number is wrong, people cannot be guided, or there is no
            ControlNet to give them to, or more than one.
    """
    if networks > 1 and (settings.control_image or settings.pose != "off"):
        raise SegueError(f"one ControlNet can be used, not {networks}; with pose off they are left out")
    points: tuple[list[Match], ...] = ()
    if settings.points:
        motion = motion_of(settings)
        points = tuple(read_points(Path(settings.points), _close_loop(given, settings), size, settings.fit, motion))
    if settings.control_image:
        return Given(images=_given_images(settings, len(given), size, network, networks), points=points)
    if settings.pose in ("auto", "off"):
        return Given(points=points)
    return Given(poses=_given_poses(settings, given, size, network, networks), points=points)


def _given_images(
    settings: MorphSettings, count: int, size: tuple[int, int], network: tuple[int, int], networks: int
) -> tuple[Image.Image, ...]:
    """The control images, fitted and seen through the camera."""
    _check(settings.control_image, "control_image", count, networks)
    motion, images = (
        motion_of(settings),
        [load(path, background=settings.ground) for path in settings.control_image],
    )
    fitted_images = [fit(image, size, settings.fit, settings.ground) for image in images]
    seen = [view(motion, Fraction(i), image) for i, image in enumerate(fitted_images)]
    return tuple(fit(image, network, "stretch") for image in seen)


def _given_poses(
    settings: MorphSettings,
    given: Sequence[tuple[int, int]],
    size: tuple[int, int],
    network: tuple[int, int],
    networks: int,
) -> tuple[Pose, ...]:
    """The poses of files, fitted and seen through the camera; raises SegueError if people cannot be guided by them."""
    paths, motion = settings.pose.split(","), motion_of(settings)
    _check(paths, "pose", len(given), networks)
    loaded = (fit_pose(Pose.load(path, of), size, settings.fit) for path, of in zip(paths, given, strict=True))
    poses = tuple(view_pose(motion, Fraction(i), pose) for i, pose in enumerate(loaded))
    poses = tuple(scale_pose(pose, network) for pose in poses)
    PosePath(_close_loop(poses, settings), matching=settings.pose_matching, given=True)
    return poses


def keypoints_of(run: RunFolder, left: int, right: int, *, count: int) -> list[Match]:
    """The keypoints that the poses of two of ``count`` keyframes share, where the run folder holds these poses."""
    files = [pose_file(run, i % count) for i in (left, right)]
    poses = [Pose.load(file) if file.exists() else None for file in files]
    return shared_keypoints(*poses)


def controls_of(
    run: RunFolder,
    settings: MorphSettings,
    keyframes: Sequence[Image.Image],
    backbone: Backbone,
    controlnet: str,
    bends: Bends | None = None,
) -> Controls | None:
    """What gives each sample its control, given the edits of the frames that it is made from; None for no control.

    The path of poses goes through the pose of an edited frame for that frame's descendants, and for no other frame.

    Args:
        run: the run folder, which keeps poses and control images.
        settings: those of the film.
        keyframes: the keyframes, fitted.
        backbone: the networks.
        controlnet: the name of the ControlNet, for the convention in which skeletons are drawn.
        bends: how geometry moves, where keyframes are aligned; control images move along.
    """
    if not backbone.controlnets:
        return None
    if settings.control_image:
        images = [run.image(f"control/{FrameKey(i).name}.png") for i in range(len(keyframes))]
        hints = [_as_hint(image) for image in _close_loop(images, settings)]
        return lambda sample, _edits: (Control(_fade(hints, sample.key, bends), scale_at(settings, sample.key)),)
    path = _pose_paths(run, settings, len(keyframes))
    if path is None:
        return None
    convention: Any = settings.control_convention or convention_for(controlnet)

    def draw_all(sample: Sample, edits: Edits) -> tuple[Control, ...]:
        if not (path({}).guides or run.history.has_poses):
            return ()
        own = run.history.attempt_of(sample.key, sample.candidate).edit.pose
        pose = Pose.load(run.path / own) if own else path(edits)(sample.key)
        return (control_at(pose, convention, keyframes[0].size, scale_at(settings, sample.key)),)

    return draw_all


def control_at(pose: Pose | None, convention: Any, size: tuple[int, int], scale: Tensor) -> Control:
    """The control of one frame: its skeleton, or an empty picture without influence where it has no pose."""
    if pose is None:
        return Control(torch.zeros(1, 3, size[1], size[0]), torch.zeros(1))
    return Control(_as_hint(draw(pose, convention)), scale)


def scale_at(settings: MorphSettings, key: FrameKey) -> Tensor:
    """The control's scale at a frame, (1,)."""
    most = settings.control_scale
    rise = 1.0 if settings.control_flat else 1 - abs(2 * float(key.position) - 1)
    return torch.tensor([most if settings.control_flat else 1 + (most - 1) * rise])


def keep_edit(run: RunFolder, edit: Edit, data: Mapping[str, Any], settings: MorphSettings, backbone: Backbone) -> Edit:
    """An edit whose files are copied into the run folder: a pose fitted to the film, and a picture as a prompt.

    ``data`` is the run file's content, for the sizes of the film and of what the model works at.

    Raises:
        SegueError: a file is not what it should be, or changes nothing in this film.
    """
    if edit.image is not None:
        edit = replace(edit, image=_keep_image(run, edit.image, settings, backbone))
    if edit.pose is None:
        return edit
    if not backbone.controlnets:
        raise SegueError("a frame's pose needs a ControlNet, and the film was made without one")
    if settings.pose == "off" or settings.control_image:
        other = "control images" if settings.control_image else "pose off"
        raise SegueError(f"a frame's pose changes nothing in a film with {other}")
    size = (data["size"][0], data["size"][1])
    pose = scale_pose(fit_pose(Pose.load(edit.pose, size), size, settings.fit), tuple(data.get("network", size)))
    content = json.dumps(as_openpose(pose)).encode()
    name = f"pose/edit-{hashlib.sha256(content).hexdigest()[:12]}.json"
    (run.path / "pose").mkdir(exist_ok=True)
    pose.save(run.path / name)
    return replace(edit, pose=name)


def _keep_image(run: RunFolder, image: str | PathLike[str], settings: MorphSettings, backbone: Backbone) -> str:
    """The name in the run folder of a picture that is a frame's prompt."""
    if not backbone.takes_images:
        raise SegueError("a frame's image needs an IP-Adapter, and the film was made without one")
    if settings.image_prompt == 0:
        raise SegueError("a frame's image changes nothing in a film with image_prompt 0")
    picture = load(image, background=settings.ground)
    name = f"words/edit-{digest(picture)[:12]}.png"
    run.save_image(name, picture)
    return name


def keep_edits(
    choose: Chooser, run: RunFolder, data: Mapping[str, Any], settings: MorphSettings, backbone: Backbone
) -> Chooser:
    """A chooser whose edits have their files copied into the run folder; see ``keep_edit``."""

    def ask(candidates: Candidates) -> Pick | Again | AcceptRest:
        answer = choose(candidates)
        if isinstance(answer, Again) and answer.edit:
            return replace(answer, edit=keep_edit(run, answer.edit, data, settings, backbone))
        return answer

    return ask


def find_poses(
    run: RunFolder,
    settings: MorphSettings,
    keyframes: Sequence[Image.Image],
    shown: Sequence[Image.Image],
    backbone: Backbone,
) -> None:
    """Have the keyframes' poses in the run folder, where the film is guided by poses.

    Args:
        run: the run folder.
        settings: those of the film.
        keyframes: the keyframes, fitted to the size that the model works at, which is that of the poses.
        shown: the keyframes as the film shows them, in which people are looked for.
        backbone: the networks, for the translation of drawings to photographs.
    """
    files = [pose_file(run, i) for i in range(len(keyframes))]
    is_guided = backbone.controlnets and settings.pose != "off" and not settings.control_image
    if not is_guided or all(file.exists() for file in files):
        return
    if settings.pose != "auto":
        missing = next(file for file in files if not file.exists())
        raise SegueError(f"{missing} is missing; run the command that began the film to write it again")
    find = detector_of(settings.pose_detector)
    for file, keyframe, original in zip(files, keyframes, shown, strict=True):
        pose = find(original)
        if not pose.people and settings.pose_via_photo:
            pose = find(_photograph(run, settings, keyframe, file.stem, backbone))
        file.parent.mkdir(exist_ok=True)
        scale_pose(pose, keyframe.size).save(file)


def tell_unguided(settings: MorphSettings, keyframes: Sequence[Image.Image]) -> None:
    """Say in one line that people are in the first two keyframes, for a film without a ControlNet to guide them.

    The others are not looked at: that would take time and guide nobody.
    """
    if settings.pose != "auto" or settings.scheme == "interpolate":
        return
    if all(detect(keyframe).people for keyframe in keyframes[:2]):
        warn(
            "people are in the keyframes, but no ControlNet guides how they move; name one with controlnet, or pose off"
        )


def _pose_paths(run: RunFolder, settings: MorphSettings, count: int) -> Callable[[Edits], PosePath] | None:
    """The path of poses through the keyframes and some edits; says in one line who is not guided on it."""
    if settings.pose == "off":
        return None
    poses = [Pose.load(pose_file(run, i)) for i in range(count)]
    closed = _close_loop([pose if pose.people else None for pose in poses], settings)

    @cache
    def through(edits: tuple[tuple[Fraction, str], ...]) -> PosePath:
        own = {place: Pose.load(run.path / file) for place, file in edits}
        given = settings.pose != "auto" and not own  # an edit's fault must not keep the film from being made
        path = PosePath(closed, own, settings.pose_matching, settings.pose_hold, given)
        for message in dict.fromkeys(path.messages):
            warn(message)
        return path

    through(())
    return lambda edits: through(tuple(sorted((key.place, edit.pose) for key, edit in edits.items() if edit.pose)))


def _photograph(
    run: RunFolder, settings: MorphSettings, keyframe: Image.Image, name: str, backbone: Backbone
) -> Image.Image:
    """A drawing translated to a photograph by the diffusion model; kept in the run folder."""
    file = f"pose/{name}-photograph.png"
    if not (run.path / file).exists():
        sampling = Sampling(
            num_inference_steps=settings.num_inference_steps, guidance_scale=max(settings.guidance_scale, 7.5)
        )
        with backbone.evaluating():
            z = backbone.encode(to_tensor([keyframe]))
            point = backbone.point(PHOTOGRAPH_NOISE)
            eps = Noise(settings.seed)("photograph", FrameKey(int(name.partition(".")[0])), shape=z.shape[1:])
            words = backbone.embed([PHOTOGRAPH], ["drawing, cartoon, painting"])
            z = backbone.denoise(point.alpha * z + point.sigma * eps, words, point, sampling=sampling)
            run.save_image(file, to_images(backbone.decode(z))[0])
    return run.image(file)


def _close_loop(parts: Sequence[Any], settings: MorphSettings) -> list[Any]:
    """One for each keyframe of the film, the closing one of a loop included."""
    return [*parts, parts[0]] if settings.loop else list(parts)


def _check(paths: Sequence[str], setting: str, count: int, networks: int) -> None:
    """Raise SegueError for a wrong number of files, or if there is no ControlNet to give them to."""
    if not networks:
        raise SegueError(f"{setting} needs a ControlNet; name one with controlnet")
    check_number(paths, setting, count)


def _as_hint(image: Image.Image) -> Tensor:
    """A picture as a control image, (1, 3, H, W) in [0, 1]."""
    return to_tensor([image]) / 2 + 0.5


def _fade(images: Sequence[Tensor], key: FrameKey, bends: Bends | None) -> Tensor:
    """The control image (1, 3, H, W) between those of two keyframes, which move along with their geometry."""
    share, ends = float(key.position), (key.pair, min(key.pair + 1, len(images) - 1))
    left, right = (images[i] for i in ends)
    if bends is not None and share:
        left, right = (
            sample_picture(image[0], bends.origin(key, FrameKey(i), image.shape[2:]))[None].clamp(0, 1)
            for i, image in zip(ends, (left, right), strict=True)
        )
    return (1 - share) * left + share * right
