"""What the user gave for the keyframes beside their pictures, kept in the run folder."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from segue.method.align import Match
from segue.method.tree import FrameKey
from segue.pictures.images import digest
from segue.pose.keypoints import Pose, as_openpose
from segue.run.folder import RunFolder

__all__ = ["Given", "keep_given", "matches_of", "pose_file"]


POINTS = "points.json"


@dataclass(frozen=True)
class Given:
    """What the user gave for the keyframes: poses, or control images, or nothing; and points that correspond.

    Poses and images are fitted to the size that the model works at, and seen through the camera, as the keyframes are;
    ``points`` has the matches of each gap.
    """

    poses: tuple[Pose, ...] = ()
    images: tuple[Image.Image, ...] = ()
    points: tuple[list[Match], ...] = ()

    def digests(self) -> list[str]:
        """A digest of each pose's keypoints or each image's pixels."""
        poses = [json.dumps(as_openpose(pose)).encode() for pose in self.poses]
        points = [repr(self.points).encode()] if self.points else []
        return [*(hashlib.sha256(given).hexdigest() for given in [*poses, *points]), *map(digest, self.images)]


def keep_given(run: RunFolder, given: Given) -> None:
    """Write what the user gave into the run folder, so that the run needs nothing else."""
    for i, pose in enumerate(given.poses):
        pose_file(run, i).parent.mkdir(exist_ok=True)
        pose.save(pose_file(run, i))
    for i, image in enumerate(given.images):
        run.save_image(f"control/{FrameKey(i).name}.png", image)
    if given.points:
        run.write(POINTS, {"gaps": given.points})


def matches_of(run: RunFolder) -> list[list[Match]]:
    """The user's matches of each gap, as they are kept in the run folder; none where none were given."""
    kept = run.read(POINTS)
    gaps: list[list[Match]] = [] if kept is None else [[_match(match) for match in gap] for gap in kept["gaps"]]
    return gaps


def _match(places: Sequence[Sequence[float]]) -> Match:
    (x, y), (u, v) = places
    return (x, y), (u, v)


def pose_file(run: RunFolder, index: int) -> Path:
    """Where a run keeps the pose of a keyframe."""
    return run.path / "pose" / f"{FrameKey(index).name}.json"
