"""Perceptual spacing (the paper's section 5.2): a tree that splits the neighbours that look farthest apart (no torch).

Every gap is split at its middle, so positions are dyadic fractions and a midpoint's depth is that of its position. A
level splits all gaps that a greedy plan splits: while frames are left, the gap whose parts would be widest gets one
more, as if a split divided its distance evenly. The next level measures anew.
"""

import heapq
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction

from segue.errors import SegueError
from segue.method.tree import Distance, FrameKey, Midpoint, level_at

__all__ = ["PerceptualTree", "network_parts"]

DEEPEST = 20  # a gap is not split more often


@dataclass(frozen=True)
class PerceptualTree:
    """The tree that is decided on the way.

    Attributes:
        pairs: the number of gaps between keyframes.
        num_frames: the frames of the whole film are those of a uniform one: pairs x (num_frames - 1) + 1 at most.
        levels: the noise level of each depth, first depth first; deeper ones use the last.
        max_distance: neighbours that look no farther apart than this are not split; 0 splits until the frames are
            used up, or all neighbours look the same.
        by_place: as of a ``UniformTree``.
    """

    pairs: int
    num_frames: int
    levels: tuple[float, ...]
    max_distance: float = 0.0
    by_place: frozenset[int] = frozenset()

    @property
    def keyframes(self) -> tuple[FrameKey, ...]:
        """The given frames in the order of the film, the closing one of a loop included."""
        return tuple(FrameKey(i) for i in range(self.pairs + 1))

    def next_level(self, made: Collection[FrameKey], distance: Distance) -> tuple[Midpoint, ...]:
        """Split the neighbours that look farthest apart; none when the frames are used up or all are near enough."""
        there = sorted(made)
        left = self.pairs * (self.num_frames - 1) + 1 - len(there)
        gaps = {pair: distance(*pair) for pair in zip(there, there[1:], strict=False)}
        wide = {
            pair: far for pair, far in gaps.items() if far > self.max_distance and _depth(_middle(*pair)) <= DEEPEST
        }
        return tuple(self._midpoint(*pair) for pair in sorted(_plan_gaps(wide, left)))

    def _midpoint(self, left: FrameKey, right: FrameKey) -> Midpoint:
        key = _middle(left, right)
        depth = _depth(key)
        noise = self.levels[min(level_at(key) if key.pair in self.by_place else depth - 1, len(self.levels) - 1)]
        return Midpoint(key, left, right, Fraction(1, 2), depth - 1, noise)


def _plan_gaps(gaps: dict[tuple[FrameKey, FrameKey], float], count: int) -> set[tuple[FrameKey, FrameKey]]:
    """The gaps that get at least one of ``count`` splits; ties go to the earlier gap."""
    heap = [(-far, pair, 1) for pair, far in gaps.items()]
    heapq.heapify(heap)
    split: set[tuple[FrameKey, FrameKey]] = set()
    for _ in range(count):
        if not heap:
            break
        _, pair, parts = heapq.heappop(heap)
        split.add(pair)
        heapq.heappush(heap, (-gaps[pair] / (parts + 1), pair, parts + 1))
    return split


def _middle(left: FrameKey, right: FrameKey) -> FrameKey:
    """The frame in the middle of two."""
    return FrameKey.at((left.place + right.place) / 2)


def _depth(key: FrameKey) -> int:
    """How often a gap between keyframes was halved to reach a frame: 1 at 1/2, 2 at 1/4 and 3/4."""
    return key.position.denominator.bit_length() - 1


NETWORKS = {
    "pixels": "",
    "pocket": "",
    "clip": "NAME",
    "dinov2": "",
    "inception": "FILE.safetensors",
    "lpips": "FILE.safetensors",
}


def network_parts(name: str) -> tuple[str, str]:
    """Kind and source of a feature network: ("clip", NAME) for clip:NAME; raises SegueError if there is none such."""
    kind, _, source = name.partition(":")
    if kind not in NETWORKS or (source and kind in ("pixels", "pocket")) or (NETWORKS[kind] and not source):
        known = [f"{network}:{needs}" if needs else network for network, needs in NETWORKS.items()]
        made = "; segue evaluate --convert makes the files (docs/evaluate.md)" if kind in ("inception", "lpips") else ""
        raise SegueError(f"unknown feature network '{name}'; choose from {', '.join(known)}{made}")
    return kind, source
