"""The poses of a film's frames: keyframes' poses, and the user's own in between, joined by straight lines.

Wang and Golland (Interpolating between Images with Diffusion Models, 2023, https://arxiv.org/abs/2307.12560, section
4.3) interpolate linearly the keypoints that both sides have, and drop what only one side has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np

from segue.method.tree import FrameKey, find_ends
from segue.pose.keypoints import Person, Pose
from segue.pose.matching import Guidance, Matching, guidance

__all__ = ["PosePath", "pose_between"]


@dataclass(frozen=True)
class PosePath:
    """The path of poses over a whole film.

    Attributes:
        poses: of the keyframes in the order of the film, the closing one of a loop included; None is nobody. All are
            fitted to the film's size.
        edits: the user's own poses at places of the film (keyframe 1 is at 1, half way to keyframe 2 is 3/2); one at
            a keyframe's place takes the place of the keyframe's.
        matching: how people are paired; see ``segue.pose.matching.match``.
        hold: keypoints that only one of two matched people has stay where they are, instead of being dropped.
        given: the keyframes' poses are the user's own files; see ``segue.pose.matching.guidance``.

    Raises:
        ValueError: poses of different sizes, no keyframe, or an edit outside the film.
        SegueError: `given`, and somebody cannot be guided.
    """

    poses: Sequence[Pose | None]
    edits: Mapping[Fraction, Pose] = field(default_factory=dict)
    matching: Matching = "largest"
    hold: bool = False
    given: bool = False

    def __post_init__(self) -> None:
        if not self.poses:
            raise ValueError("a path needs the pose of a keyframe")
        if any(not 0 <= place <= len(self.poses) - 1 for place in self.edits):
            raise ValueError(f"an edit lies outside the film, which ends at {len(self.poses) - 1}")
        if len({pose.size for _, pose in self._anchors if pose}) > 1:
            raise ValueError("the poses of a path are of one size: fit them to the film's first")
        _ = self._guidances

    def __call__(self, frame: FrameKey | Fraction) -> Pose | None:
        """The pose of a frame or a place; None where nobody is guided.

        At an anchor (a keyframe, or an edit's place) it is the anchor's own.
        """
        place = frame.place if isinstance(frame, FrameKey) else frame
        i, j, weight = find_ends(place, [anchor for anchor, _ in self._anchors])
        left, right = self._anchors[i][1], self._anchors[j][1]
        if weight == 0:
            return left if left and left.people else None
        guided = self._guidances[i]
        if left is None or right is None or not guided.pairs:
            return None
        return pose_between(left, right, guided.pairs, float(weight), hold=self.hold)

    @property
    def messages(self) -> tuple[str, ...]:
        """One line for each stretch between two anchors in which somebody is not guided."""
        return tuple(guided.message for guided in self._guidances if guided.message)

    @property
    def guides(self) -> bool:
        """Whether any frame between two anchors has a pose."""
        return any(guided.pairs for guided in self._guidances)

    @cached_property
    def _anchors(self) -> tuple[tuple[Fraction, Pose | None], ...]:
        places: dict[Fraction, Pose | None] = {Fraction(i): pose for i, pose in enumerate(self.poses)}
        places.update(self.edits)
        return tuple(sorted(places.items(), key=lambda anchor: anchor[0]))

    @cached_property
    def _guidances(self) -> tuple[Guidance, ...]:
        return tuple(
            guidance(left, right, self.matching, given=self.given, names=(self._name(start), self._name(stop)))
            for (start, left), (stop, right) in pairwise(self._anchors)
        )

    def _name(self, place: Fraction) -> str:
        if place in self.edits:
            return f"the pose given at {float(place):g}"
        return f"the keyframe at {place}"


def pose_between(
    left: Pose, right: Pose, pairs: Sequence[tuple[int, int]], weight: float, *, hold: bool = False
) -> Pose:
    """The pose at a weight from 0 (left) to 1 (right): matched people, their keypoints on straight lines.

    Args:
        left: one pose.
        right: another, of the same size.
        pairs: who is who; the people are in this order.
        weight: where between the two.
        hold: keep keypoints that only one has where they are, instead of dropping them.
    """
    people = []
    for i, j in pairs:
        one, other = left.people[i].points, right.people[j].points
        here, there = left.people[i].visible[:, None], right.people[j].visible[:, None]
        points = np.where(here & there, (1 - weight) * one + weight * other, 0.0)
        if hold:
            points = np.where(here & ~there, one, np.where(there & ~here, other, points))
        people.append(Person(points))
    return Pose(tuple(people), *left.size)
