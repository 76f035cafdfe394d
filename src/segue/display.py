"""Progress on the terminal: a live line where it is one, plain lines elsewhere, JSON lines for other programs."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from segue.generate import Progress

__all__ = ["Mode", "showing"]

Mode = Literal["live", "plain", "json", "quiet"]

PLAIN_SECONDS = 5.0  # between two plain lines


@contextmanager
def showing(mode: Mode) -> Iterator[Callable[[Progress], None]]:
    """Show the progress that the yielded callback is handed; on standard error, JSON on standard output."""
    if mode == "quiet":
        yield lambda _progress: None
    elif mode == "json":
        yield lambda progress: print(json.dumps(_record(progress)), flush=True)
    elif mode == "plain" or not sys.stderr.isatty():
        yield _Plain()
    else:
        with _live() as show:
            yield show


def describe(progress: Progress) -> str:
    """Where the work is, in words: "level 2 of 4, frame 3 of 15, 12 s left"."""
    if progress.stage == "words":
        return f"fitting the words, iteration {progress.step} of {progress.steps}"
    if progress.stage == "film":
        return "writing the film"
    if not progress.level:
        return f"{progress.total} frames in {progress.levels} levels, {progress.steps} denoising steps"
    levels = f"level {progress.level}" + (f" of {progress.levels}" if progress.levels else "")
    left = f", {duration(progress.left)} left" if progress.left is not None and progress.level > 1 else ""
    return f"{levels}, frame {progress.frames} of {progress.total}{left}"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 45 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class _Plain:
    """One line at the start, one for each level, and one every few seconds."""

    def __init__(self) -> None:
        self.said = -PLAIN_SECONDS
        self.level = -1

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.level != self.level or now - self.said >= PLAIN_SECONDS:
            self.said, self.level = now, progress.level
            print(describe(progress), file=sys.stderr, flush=True)


@contextmanager
def _live() -> Iterator[Callable[[Progress], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("steps"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(progress: Progress) -> None:
            bar.update(task, description=describe(progress), completed=progress.step, total=progress.steps or None)

        yield show


def _record(progress: Progress) -> dict[str, object]:
    """A progress as plain values."""
    return {
        "stage": progress.stage,
        "level": progress.level,
        "levels": progress.levels,
        "frames": progress.frames,
        "total": progress.total,
        "step": progress.step,
        "steps": progress.steps,
        "seconds": round(progress.seconds, 3),
        "left": None if progress.left is None else round(progress.left, 3),
        "frame": None if progress.frame is None else str(progress.frame.place),
    }
