"""Cache keys: everything that is made is named by a digest of what it is made from.

That is the names of its parents, its noise points, its candidate's number and its edit. What a run holds under a name
is not made again, so resuming, growing, remaking, undoing and replaying are one mechanism: run the scheme, and make
what is missing.
"""

import hashlib
from collections.abc import Callable, Mapping

from segue.method.diffusion import NoisePoint
from segue.method.schemes import Level, Sample
from segue.method.tree import FrameKey
from segue.run.folder import RunFolder
from segue.run.journal import Attempt, Edit

__all__ = ["CacheKeys"]


class CacheKeys:
    """The names of what a film is made of, as far as its levels are settled."""

    def __init__(self, run: RunFolder, point: Callable[[float], NoisePoint], keyframes: Mapping[FrameKey, str]) -> None:
        """Begin with the keyframes, each named by a digest of its picture; ``point`` is that of a noise level."""
        self.run = run
        self.point = point
        self.settled = dict(keyframes)
        self.edits: dict[FrameKey, dict[FrameKey, Edit]] = {}  # of a settled frame and of those that it is made from
        self._known: dict[Sample, str] = {}  # of the present level

    def __call__(self, level: Level, sample: Sample) -> str:
        """The cache key of a sample: its frame's name, the digest, and which keyframe goes alone."""
        if sample not in self._known:
            cache_key = (
                f"{sample.key.name}-{self._digest(level, sample.key, sample.candidate, self.edit(level, sample))}"
            )
            self._known[sample] = "-".join([cache_key, *(k.name for k in (sample.alone, sample.of) if k is not None)])
        return self._known[sample]

    def context(self, level: Level, attempt: Attempt) -> str:
        """What a choice among a try's candidates holds for."""
        return self._digest(level, attempt.key, attempt.first, attempt.edit)

    def edit(self, level: Level, sample: Sample) -> Edit:
        """The edit under which a candidate of a frame is made."""
        return self.run.history.attempt_of(sample.key, sample.candidate).edit if level.is_final else Edit()

    def edits_above(self, level: Level, key: FrameKey) -> dict[FrameKey, Edit]:
        """The edits of the frames that a frame is made from, and of those that they are made from."""
        return {k: edit for parent in level.parents.get(key, ()) for k, edit in self.edits.get(parent, {}).items()}

    def settle(self, level: Level, chosen: Mapping[FrameKey, int]) -> None:
        """Go on to the next level; each frame of this one is the candidate that was chosen."""
        settled = {key: self(level, Sample(key, number)) for key, number in chosen.items()}
        edits = {}
        for key, number in chosen.items():
            own = self.edit(level, Sample(key, number))
            edits[key] = self.edits_above(level, key) | ({} if own == Edit() else {key: own})
        self.settled |= settled
        self.edits |= edits
        self._known.clear()

    def _digest(self, level: Level, key: FrameKey, number: int, edit: Edit) -> str:
        parents = [self.settled.get(parent, "") for parent in level.parents.get(key, ())]
        start = level.usual.get(key, level.start) if edit.noise is None else self.point(edit.noise)
        text = repr((str(key.place), parents, start.timestep, level.stop.timestep, number, edit))
        return hashlib.sha256(text.encode()).hexdigest()[:12]
