"""What a user can get wrong, and what a user should know: one line that names the fault and what would be right."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["FaultsError", "Notice", "SegueError", "hearing", "one_line", "warn"]


class SegueError(ValueError):
    """A wrong input, option, file or checkpoint; its message is one line that names it.

    The command line prints the message after ``segue: `` and ends with exit code 2.
    """


class FaultsError(SegueError):
    """Everything that is wrong with a manifest, on a line each; the command line prints it as it is."""


@dataclass(frozen=True)
class Notice:
    """Something that a user should know and that does not stop the work; ``text`` is one line."""

    text: str


_listener: ContextVar[Callable[[Notice], object] | None] = ContextVar("listener", default=None)


def warn(text: str) -> None:
    """Give a Notice to the callback of the present work; if there is none, log its text as a warning of "segue"."""
    notice, listen = Notice(" ".join(text.split())), _listener.get()
    if listen is None:
        logging.getLogger("segue").warning("%s", notice.text)
    else:
        listen(notice)


@contextmanager
def hearing(listen: Callable[[Notice], object] | None = None) -> Iterator[None]:
    """Hand each Notice of the work in here to ``listen``, or to nobody."""
    token = _listener.set(listen or (lambda _notice: None))
    try:
        yield
    finally:
        _listener.reset(token)


def one_line(error: Exception) -> str:
    """What an error of a library says, in one line that is not too long; its kind if it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__
