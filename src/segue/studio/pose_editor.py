"""Poses as the page edits them: what pose a frame has, the path of poses, and what an edited one becomes.

A pose is handed to the page as lists of 18 [x, y, confidence], in pixels of the frame, and comes back as such.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from segue.errors import SegueError
from segue.method.tree import FrameKey
from segue.pose.keypoints import KEYPOINTS, Person, Pose
from segue.pose.path import PosePath
from segue.studio.timeline import RunView, ancestors

__all__ = ["LIMBS", "Poses", "as_points", "from_points", "kept", "path_of", "pose_of", "prepare", "standing"]

LIMBS = (  # the bones that the page draws: pairs of keypoints
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip

# A figure that stands in the middle, for frames in which nobody was found: x and y as shares of the frame.
_STANDING = (
    (0.50, 0.15), (0.50, 0.25), (0.41, 0.25), (0.36, 0.40), (0.34, 0.54), (0.59, 0.25), (0.64, 0.40), (0.66, 0.54),
    (0.44, 0.53), (0.43, 0.72), (0.43, 0.91), (0.56, 0.53), (0.57, 0.72), (0.57, 0.91), (0.48, 0.13), (0.52, 0.13),
    (0.455, 0.14), (0.545, 0.14),
)  # fmt: skip


Poses = Callable[[FrameKey], Pose | None]


def pose_of(view: RunView, key: FrameKey, path: Poses | None) -> tuple[Pose | None, str]:
    """The pose of a frame and whose it is: "own", "path" or "none"."""
    own = view.history.edit(key).pose
    if own:
        return Pose.load(view.path / own), "own"
    pose = path(key) if path else None
    return (pose, "path") if pose and pose.people else (None, "none")


def path_of(view: RunView) -> Poses | None:
    """The pose of each frame on its path, which goes through the keyframes' poses and those of edited ancestors.

    From what lies in the run folder; None if the keyframes have no poses.
    """
    files = [view.path / "pose" / f"{FrameKey(i).name}.json" for i in range(view.keyframes)]
    if not all(file.is_file() for file in files):
        return None
    poses = [pose if pose.people else None for pose in map(Pose.load, files)]
    closed = [*poses, poses[0]] if view.settings.loop else poses
    named = {key: view.history.edit(key).pose for key in view.history.edited}
    edits = {key: Pose.load(view.path / file) for key, file in named.items() if file}
    above = ancestors(view.slots()) if edits else {}

    @cache
    def through(edited: frozenset[FrameKey]) -> PosePath:
        own = {key.place: edits[key] for key in edited}
        return PosePath(closed, own, view.settings.pose_matching, view.settings.pose_hold)

    through(frozenset())  # what is wrong with a file shows here
    return lambda key: through(frozenset(edits) & {key, *above.get(key, ())})(key)


def prepare(run: Path, keyframes: int, size: tuple[int, int]) -> None:
    """Note that nobody is in keyframes of which no pose is known, so that a frame can have a pose of its own."""
    for i in range(keyframes):
        file = run / "pose" / f"{FrameKey(i).name}.json"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            Pose((), *size).save(file)


def standing(size: tuple[int, int]) -> Pose:
    """A figure to begin with."""
    points = [(x * size[0], y * size[1], 1.0) for x, y in _STANDING]
    return Pose((Person.of(points),), *size)


def as_points(pose: Pose) -> list[list[list[float]]]:
    """People as plain lists."""
    return [[[round(float(number), 2) for number in point] for point in person.points] for person in pose.people]


def from_points(people: object, size: tuple[int, int]) -> Pose:
    """The pose of plain lists; raises SegueError for anything else. Points outside the frame are not there."""
    try:
        arrays = [np.asarray(person, dtype=np.float64) for person in _list(people)]
        found = tuple(Person(points * _inside(points, size)[:, None]) for points in arrays)
    except (TypeError, ValueError, IndexError) as error:
        raise SegueError(f"a pose is people with {len(KEYPOINTS)} points of x, y and confidence each") from error
    if not any(person.visible.any() for person in found):
        raise SegueError("the pose has no point in the frame; place one or reset the pose")
    return Pose(found, *size)


def kept(pose: Pose, folder: Path) -> Path:
    """The pose as a file, named by what it holds."""
    digest = hashlib.sha256(json.dumps(as_points(pose)).encode()).hexdigest()[:12]
    path = folder / f"pose-{digest}.json"
    pose.save(path)
    return path


def _list(people: Any) -> Sequence[Any]:
    if not isinstance(people, list) or not 0 < len(people) <= 32:
        raise ValueError("people")
    return people


def _inside(points: Any, size: tuple[int, int]) -> Any:
    x, y = points[:, 0], points[:, 1]
    return (x >= 0) & (x <= size[0]) & (y >= 0) & (y <= size[1])
