"""What a user can get wrong, and what a user should know: one line that names the fault and what would be right."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from types import FrameType

__all__ = ["SegueError", "SegueWarning", "heard", "unheard", "warn"]

_HOME = f"{Path(__file__).parent}{os.sep}"
_CHANGING = RLock()  # Python keeps one list of filters for all threads, and puts back the one that it found


class SegueError(ValueError):
    """A wrong input, option, file or checkpoint; its message is one line that names it.

    The command line prints the message after ``segue: `` and ends with exit code 2.
    """


class SegueWarning(UserWarning):
    """Something that a user should know and that does not stop the work; one line, like that of an error."""


def warn(text: str) -> None:
    """Give a SegueWarning, as of the line that called this package."""
    frame: FrameType | None = sys._getframe()
    level = outermost = 0
    while frame is not None:
        level += 1
        if frame.f_code.co_filename.startswith(_HOME):
            outermost = level
        frame = frame.f_back
    warnings.warn(text, SegueWarning, stacklevel=outermost + 1)


@contextmanager
def heard(say: Callable[[str], None]) -> Iterator[None]:
    """Hand the text of each SegueWarning in here to ``say``, on one line, and nobody any other warning.

    One thread at a time can be in here; others may read pictures meanwhile.
    """
    caught = warnings.catch_warnings()
    with _CHANGING:
        caught.__enter__()
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", SegueWarning)
        warnings.showwarning = lambda message, *_args, **_kw: say(" ".join(str(message).split()))
    try:
        yield
    finally:
        with _CHANGING:
            caught.__exit__(None, None, None)


@contextmanager
def unheard() -> Iterator[None]:
    """No warnings in here; for a short time, in which other threads that do the same wait."""
    with _CHANGING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
