"""One process at a time: locks on files, which the operating system gives back when their process ends or is killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from segue.errors import SegueError

__all__ = ["InUseError", "hold_lock", "lock"]


class InUseError(SegueError):
    """Another process has the folder open."""


def lock(path: Path, folder: Path, who: str = "process") -> BaseFileLock:
    """Lock a file, which is made if it is missing; the caller releases it.

    Args:
        path: the file.
        folder: what it keeps others out of, as messages name it.
        who: what has the folder in use, in words.

    Raises:
        InUseError: another process has it.
        OSError: the file cannot be made.
    """
    held = FileLock(path, mode=0o644, thread_local=False)
    try:
        held.acquire(blocking=False)
    except (Timeout, RuntimeError) as error:  # held elsewhere, or by another part of this process
        raise InUseError(f"{folder} is in use by another {who}") from error
    return held


@contextmanager
def hold_lock(output: Path, notes: str, who: str) -> Iterator[None]:
    """Keep a second process out of an output's folder; the lock of a dead process does not count.

    Args:
        output: the folder, which is made if it is missing.
        notes: the name of the folder in it that holds the lock.
        who: what has the folder in use, in words.

    Raises:
        SegueError: another process has it, or nothing can be written there.
    """
    path = output / notes / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = lock(path, output, who)
    except OSError as error:
        raise SegueError(f"{output} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        held.release()
