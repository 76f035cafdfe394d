"""Which frames are made from which: keys, midpoints, levels and their noise levels (no torch).

A tree is asked for its next level with what is made so far, and answers with midpoints, or with none when the film
is complete. A gap is split at its middle index; the weight of the blend follows the index.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from segue.errors import SegueError

__all__ = [
    "Distance",
    "FrameKey",
    "GrownTree",
    "Midpoint",
    "Tree",
    "UniformTree",
    "descendants",
    "find_ends",
    "is_growth",
    "level_at",
    "noise_levels",
]


@dataclass(frozen=True, order=True)
class FrameKey:
    """A frame: the pair of keyframes it lies between, and where, as an exact fraction 0 <= position < 1.

    Keyframe i is FrameKey(i, 0); the keyframe that closes a loop over n keyframes is FrameKey(n, 0).
    """

    pair: int
    position: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        position: object = self.position
        if not isinstance(position, Fraction):  # of a number 0.3 what is written: 3/10
            object.__setattr__(self, "position", Fraction(str(position)))
        if not 0 <= self.position < 1:
            raise ValueError(f"a frame's position is a fraction from 0 to under 1, not {self.position}")

    @classmethod
    def at(cls, place: Fraction | float | str) -> "FrameKey":
        """The frame at a place of the whole film: 1.25, or "5/4", is a quarter of the way from keyframe 1 to 2."""
        place = place if isinstance(place, Fraction) else Fraction(str(place))
        pair = place.numerator // place.denominator
        return cls(pair, place - pair)

    @property
    def place(self) -> Fraction:
        """Where the frame stands in the whole film: the pair's number plus the position."""
        return self.pair + self.position

    @property
    def is_keyframe(self) -> bool:
        """Whether this is an image that the user gave."""
        return self.position == 0

    @property
    def name(self) -> str:
        """A name for files that sorts like the film: 000.2500000."""
        return f"{self.pair:03d}.{round(self.position * 10**7):07d}"

    def __str__(self) -> str:
        return f"{float(self.place):g}"


@dataclass(frozen=True)
class Midpoint:
    """A frame that is generated from two others.

    Attributes:
        key: the frame.
        left: its parent before it; right: its parent after it.
        weight: where it lies between them, (m - l) / (r - l).
        level: the number of its level, from 0; midpoints of a level do not depend on each other.
        noise: the level's noise level f, 0 < f < 1.
    """

    key: FrameKey
    left: FrameKey
    right: FrameKey
    weight: Fraction
    level: int
    noise: float


Distance = Callable[[FrameKey, FrameKey], float]


class Tree(Protocol):
    """What the schemes ask for midpoints."""

    @property
    def keyframes(self) -> tuple[FrameKey, ...]:
        """The given frames in the order of the film, the closing one of a loop included."""

    def next_level(self, made: Collection[FrameKey], distance: Distance) -> tuple[Midpoint, ...]:
        """The next midpoints, given the frames that are there and how far apart two of them look; none when done."""


@dataclass(frozen=True)
class UniformTree:
    """The fixed tree: equal steps between the keyframes.

    Attributes:
        pairs: the number of gaps between keyframes.
        num_frames: the frames of each gap, both keyframes included.
        levels: the noise level of each level, first level first.
        branching: into how many parts a level splits each gap.
        by_place: the gaps in which noise follows a frame's distance from the keyframes (``level_at``), not its level.
    """

    pairs: int
    num_frames: int
    levels: tuple[float, ...]
    branching: int = 2
    by_place: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        depth = self.depth(self.num_frames, self.branching)
        if len(self.levels) < depth:
            raise SegueError(
                f"{self.num_frames} frames need {depth} noise levels, one for each level of the tree, "
                f"but {len(self.levels)} are given"
            )

    @staticmethod
    def depth(num_frames: int, branching: int = 2) -> int:
        """How many levels a film of that many frames between two keyframes has."""
        widest, count = num_frames - 1, 0
        while widest > 1:
            widest, count = max(_steps(widest, branching)), count + 1
        return count

    @property
    def keyframes(self) -> tuple[FrameKey, ...]:
        """The given frames in the order of the film, the closing one of a loop included."""
        return tuple(FrameKey(i) for i in range(self.pairs + 1))

    @property
    def frames(self) -> tuple[FrameKey, ...]:
        """All frames of the film, in order."""
        gap = self.num_frames - 1
        return tuple(FrameKey.at(Fraction(i, gap)) for i in range(self.pairs * gap + 1))

    def next_level(self, made: Collection[FrameKey], distance: Distance | None = None) -> tuple[Midpoint, ...]:
        """Split every gap between neighbours that are made; how far they look apart is ignored."""
        del distance
        gap = self.num_frames - 1
        there = [i for i in range(self.pairs * gap + 1) if FrameKey.at(Fraction(i, gap)) in made]
        wide = [(left, right) for left, right in zip(there, there[1:], strict=False) if right - left > 1]
        if not wide:
            return ()
        # The widest gap tells how many levels are left; all gaps are split at once.
        left_to_do = self.depth(max(right - left for left, right in wide) + 1, self.branching)
        level = self.depth(self.num_frames, self.branching) - left_to_do
        return tuple(
            Midpoint(
                key=FrameKey.at(Fraction(index, gap)),
                left=FrameKey.at(Fraction(left, gap)),
                right=FrameKey.at(Fraction(right, gap)),
                weight=Fraction(index - left, right - left),
                level=level,
                noise=self.levels[self._rung(FrameKey.at(Fraction(index, gap)), level)],
            )
            for left, right in wide
            for index in _split(left, right, self.branching)
        )

    def _rung(self, key: FrameKey, level: int) -> int:
        """Which of the noise levels a frame of a level has."""
        return min(level_at(key, self.branching), len(self.levels) - 1) if key.pair in self.by_place else level

    def midpoints(self) -> tuple[Midpoint, ...]:
        """Every midpoint, level by level."""
        made = set(self.keyframes)
        found: list[Midpoint] = []
        while level := self.next_level(made):
            found += level
            made.update(midpoint.key for midpoint in level)
        return tuple(found)


@dataclass(frozen=True)
class GrownTree:
    """A film that was finished with fewer frames and grew: each stage keeps all frames of the one before."""

    stages: tuple[UniformTree, ...]

    @property
    def keyframes(self) -> tuple[FrameKey, ...]:
        """The given frames in the order of the film."""
        return self.stages[-1].keyframes

    @property
    def frames(self) -> tuple[FrameKey, ...]:
        """All frames of the grown film, in order."""
        return self.stages[-1].frames

    def next_level(self, made: Collection[FrameKey], distance: Distance | None = None) -> tuple[Midpoint, ...]:
        """The next level of the first stage that is not complete."""
        levels = (stage.next_level(made, distance) for stage in self.stages)
        return next((level for level in levels if level), ())


def is_growth(before: int, after: int, branching: int = 2) -> bool:
    """Whether a film of ``before`` frames a gap grows to ``after`` without making any frame again."""
    gap = before - 1
    while gap < after - 1:
        gap *= branching
    return before < after and gap == after - 1


def noise_levels(count: int, low: float, high: float) -> tuple[float, ...]:
    """Evenly spaced noise levels of a tree of ``count`` levels, the first (largest) first; a single one is ``high``."""
    if count <= 1:
        return (high,) * count
    return tuple(low + (high - low) * (1 - i / (count - 1)) for i in range(count))


def level_at(key: FrameKey, branching: int = 2) -> int:
    """The first level whose frames come as near to a keyframe as a frame is: 0 for the middle half of a gap (b = 2).

    So noise falls towards the keyframes, and neighbours have the same or the next level's, in whatever order they are
    made.
    """
    distance, level, width = min(key.position, 1 - key.position), 0, Fraction(1, branching**2)
    while distance <= width:
        level, width = level + 1, width / branching
    return level


def descendants(key: FrameKey, midpoints: Iterable[Midpoint]) -> frozenset[FrameKey]:
    """The frames that were generated from the frame, directly or through others; the frame itself is not among them.

    The midpoints are taken in the order in which they were made: parents before their children.
    """
    touched = {key}
    for midpoint in midpoints:
        if midpoint.left in touched or midpoint.right in touched:
            touched.add(midpoint.key)
    return frozenset(touched - {key})


def find_ends(place: Fraction, anchors: Sequence[Fraction]) -> tuple[int, int, Fraction]:
    """Between which two of the sorted anchors a place lies, and where: (i, j, weight of j); ends are held."""
    if place <= anchors[0]:
        return 0, 0, Fraction(0)
    for i, (left, right) in enumerate(zip(anchors, anchors[1:], strict=False)):
        if place < right:
            return i, i + 1, (place - left) / (right - left)
    return len(anchors) - 1, len(anchors) - 1, Fraction(0)


def _steps(width: int, branching: int) -> list[int]:
    """The widths of the parts of a gap of that many steps."""
    cuts = [0, *_split(0, width, branching), width]
    return [right - left for left, right in zip(cuts, cuts[1:], strict=False)]


def _split(left: int, right: int, branching: int) -> list[int]:
    """The indices at which a gap is split: all inner ones where it has no more steps than parts."""
    parts = min(branching, right - left)
    return [left + (right - left) * j // parts for j in range(1, parts)]
