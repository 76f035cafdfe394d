"""Progress on the terminal: a live line where it is one, plain lines elsewhere, JSON lines for other programs.

``segue morph``, ``segue batch`` and ``segue evaluate`` say with a ``Line`` where they are; how it is shown is one.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from segue.engine.dialogue import describe
from segue.errors import Notice, hearing

if TYPE_CHECKING:
    from segue.engine.dialogue import Progress

__all__ = ["Line", "Mode", "print_notice", "show_as_lines", "show_progress"]

Mode = Literal["live", "plain", "json", "quiet"]
State = TypeVar("State")

PLAIN_SECONDS = 5.0  # between two plain lines of one part


@dataclass(frozen=True)
class Line:
    """Where some work is, in words.

    Attributes:
        text: beside the live bar; empty if there is only news.
        done, total: the bar; no total where it is not known.
        plain: the line where the output is not a terminal; ``text`` if not given.
        part: a plain line is printed at once when it changes, else every few seconds.
        news: what a user should know at once, and should stay.
    """

    text: str
    done: int = 0
    total: int = 0
    plain: str = ""
    part: object = None
    news: str = ""


@contextmanager
def show_progress(mode: Mode) -> "Iterator[Callable[[Progress | Notice], None]]":
    """Show the progress of a film that the yielded callback is handed."""
    with show_as_lines(mode, _line, record=_record, unit="steps") as show:
        yield lambda told: print_notice(told) if isinstance(told, Notice) else show(told)


def print_notice(notice: Notice) -> None:
    """Print a notice on standard error."""
    print(f"segue: {notice.text}", file=sys.stderr)


@contextmanager
def show_as_lines(
    mode: Mode, line: Callable[[State], Line], *, record: Callable[[State], dict[str, Any]] | None = None, unit: str
) -> Iterator[Callable[[State], None]]:
    """Show where some work is, on standard error; as JSON on standard output.

    Args:
        mode: live where standard error is a terminal, plain lines, JSON lines, or nothing.
        line: a state of the work in words.
        record: a state as plain values, for JSON lines; work without it has none.
        unit: what the live bar counts.

    Yields:
        The callback that is handed the states.
    """
    if mode == "quiet":
        with hearing():
            yield lambda _state: None
    elif mode == "json" and record is not None:
        yield lambda state: print(json.dumps(record(state)), flush=True)
    elif mode == "plain" or not sys.stderr.isatty():
        plain = _Plain()
        yield lambda state: plain(line(state))
    else:
        with _live(unit) as show:
            yield lambda state: show(line(state))


class _Plain:
    """All news; a line for each part of the work, and one every few seconds."""

    def __init__(self) -> None:
        self.said = -PLAIN_SECONDS
        self.part: object = self

    def __call__(self, line: Line) -> None:
        now = time.monotonic()
        if line.news:
            print(line.news, file=sys.stderr, flush=True)
        text = line.plain or line.text
        if text and (line.part != self.part or now - self.said >= PLAIN_SECONDS):
            self.said, self.part = now, line.part
            print(text, file=sys.stderr, flush=True)


@contextmanager
def _live(unit: str) -> Iterator[Callable[[Line], None]]:
    """A bar that stays on its line, with the news above it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), MofNCompleteColumn())
    with Progress(*columns, TextColumn(unit), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(line: Line) -> None:
            if line.news:
                bar.console.print(line.news, highlight=False, markup=False)
            if line.total:
                bar.update(task, completed=line.done, total=line.total)
            bar.update(task, description=line.text)

        yield show


def _line(progress: "Progress") -> Line:
    if progress.text:
        return Line("", news=progress.text)
    return Line(describe(progress), progress.step, progress.steps, part=progress.level)


def _record(progress: "Progress") -> dict[str, Any]:
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
        "text": progress.text,
    }
