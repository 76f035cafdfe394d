"""How far a film is, in frames and denoising steps, and how long the rest will take."""

import time
from collections.abc import Callable
from pathlib import Path

from segue.engine.dialogue import Cost, Progress
from segue.method.tree import FrameKey

__all__ = ["Clock"]


class Clock:
    """Counts what is done and reports it."""

    def __init__(self, cost: Cost, report: Callable[[Progress], None]) -> None:
        """Start; ``cost`` is what the film costs in all."""
        self.cost = cost
        self.level = self.frames = self.step = 0
        self._report, self._skipped, self._begun = report, 0, time.monotonic()

    def begin(self) -> None:
        """Report what there is to do."""
        cost = self.cost
        self._report(Progress("frames", levels=cost.levels, total=cost.frames, steps=cost.steps))

    def advance(self, steps: int) -> None:
        """Count steps that were computed, and report."""
        self.step += steps
        self.report()

    def skip(self, steps: int) -> None:
        """Count steps that need no work: done, but not for the speed."""
        self.step += steps
        self._skipped += steps

    def report(self, key: FrameKey | None = None, file: Path | None = None) -> None:
        """Report how far the film is, and a frame that is finished, with its file."""
        seconds, cost = time.monotonic() - self._begun, self.cost
        worked = self.step - self._skipped
        left = seconds / worked * max(cost.steps - self.step, 0) if worked and cost.steps else None
        frames = (self.frames, cost.frames)
        steps = (self.step, cost.steps)
        self._report(Progress("frames", self.level, cost.levels, *frames, *steps, seconds, left, key, file))
