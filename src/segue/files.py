"""Files that are whole or not there: written under a temporary name in the same folder, then put in place.

A temporary name is ``.NAME.XXXXXXXX.part``; a process that was killed leaves at most such a file, and ``sweep`` removes
it. Errors of the disk (full, read-only, no permission, no such folder) become one line that names the path.
"""

import codecs
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from segue.errors import SegueError

__all__ = [
    "append_line",
    "check_apart",
    "check_writable",
    "file_and_frame",
    "file_of",
    "read_json",
    "read_text",
    "remove",
    "sweep",
    "temporary_name",
    "write_bytes",
    "write_json",
    "write_text",
    "writing",
    "writing_folder",
]

_TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{8}\.part")
_NAME_BYTES = 200  # of a name that a temporary name repeats: with its ending it stays below the usual limit of 255


def file_of(source: Path) -> Path:
    """The file of a picture or of a video's frame: ``clip.mp4`` of ``clip.mp4@last``, unless that is a file's name."""
    return file_and_frame(source)[0]


def file_and_frame(source: Path) -> tuple[Path, Literal["first", "last"] | None]:
    """A file, and which frame of a video is meant, if one is named."""
    name, _, which = source.name.rpartition("@")
    if not name or which not in ("first", "last") or os.path.lexists(source):
        return source, None
    return source.with_name(name), "first" if which == "first" else "last"


@contextmanager
def writing(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Give a temporary path, which does not exist yet, and put what is written there in place of ``path`` at the end.

    Readers see the old file or the whole new one, also after a loss of power. Nothing is left if the block raises.
    A symbolic link keeps pointing where it pointed: its target is replaced.

    Args:
        path: the file.
        flush: wait for the disk; not needed where the block only links a file that was written so before.

    Raises:
        SegueError: the operating system refused, in here or in the block; the message names ``path``.
    """
    target = _target(path)
    temporary = temporary_name(target)
    try:
        yield temporary
        if flush:
            _flush(temporary, os.O_RDWR)  # Windows flushes no file that is only read
        temporary.replace(target)
        if flush:
            _flush_folder(target.parent)
    except OSError as error:
        raise _refusal(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Give a new temporary folder, and put it in place of the folder ``path`` at the end, with all that it holds.

    Raises:
        SegueError: the operating system refused; the folder that was there is as it was.
    """
    target = _target(path)
    temporary, old = temporary_name(target), temporary_name(target)
    try:
        temporary.mkdir()
        yield temporary
        if target.exists():
            target.replace(old)
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        raise _refusal(path, error) from error
    finally:
        if old.exists() and not target.exists():  # interrupted, or refused, between the two
            old.replace(target)
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with writing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, as UTF-8 with the line ends of the text.

    Bytes of a name that is not UTF-8, which Python keeps as lone surrogates, become the escapes that JSON has for them.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, content: object) -> None:
    """Write a JSON file atomically: indented, keys in their given order, no NaN (ValueError)."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object that a JSON file holds; None if there is no file.

    Raises:
        SegueError: the file cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SegueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SegueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise SegueError(f"{path} is damaged: it is not a JSON object")
    return found


def read_text(path: Path) -> str:
    """The text of a file that another program wrote: UTF-8, or UTF-16 with or without its mark.

    Raises:
        SegueError: the file cannot be read, or holds text of another kind.
    """
    try:
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data.decode("utf-16")
        # Half the bytes of plain letters in UTF-16 are zero, and none in UTF-8.
        if data[1:200:2].count(0) > len(data[1:200:2]) // 2:
            return data.decode("utf-16-le")
        if data[0:200:2].count(0) > len(data[0:200:2]) // 2:
            return data.decode("utf-16-be")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise SegueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SegueError(f"{path} cannot be read: it is neither UTF-8 nor UTF-16 text") from error


def append_line(path: Path, text: str) -> None:
    """Append one line to a journal, on disk when this returns; a crash can cut off only the last line.

    If the disk is full in the middle of the line, what was written of it is taken back.

    Raises:
        SegueError: the operating system refused.
        ValueError: the text holds a line end.
    """
    if "\n" in text or "\r" in text:
        raise ValueError("a line of a journal cannot hold a line end")
    data = f"{text}\n".encode()
    try:
        with path.open("ab", buffering=0) as file:
            written = file.write(data)
            size = os.fstat(file.fileno()).st_size
            if written != len(data):
                file.truncate(size - written)
                raise OSError("only a part of the line was written; is the disk full?")
            os.fsync(file.fileno())
        if size == written:
            _flush_folder(path.parent)
    except OSError as error:
        raise _refusal(path, error) from error


def check_writable(path: Path) -> None:
    """Check, before any work starts, that ``path`` can be written as a file; nothing is left behind.

    The folder of the path must be there, or it must be possible to make it.

    Raises:
        SegueError: ``path`` is a folder or a device, or nothing can be written there.
    """
    try:
        if path.is_dir():
            raise SegueError(f"{path} is a folder; give the name of a file")
        if path.exists() and not path.is_file():
            raise SegueError(f"{path} is not a regular file; choose another output")
        target = _target(path)
        folder = target.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise SegueError(f"{path} cannot be written: {folder} is not a folder")
        temporary = temporary_name(folder / target.name)
        try:
            temporary.touch(exist_ok=False)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _refusal(path, error) from error


def check_apart(path: Path, sources: Iterable[Path]) -> None:
    """Check that what is written as ``path``, a file or a folder, replaces none of the files that are read.

    Raises:
        SegueError: it would; the message names both.
    """
    target = _target(path)
    for source in sources:
        if target in (real := _target(source), *real.parents):
            raise SegueError(f"{path} would replace {source}; choose another output")


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left unfinished in a folder (not in the folders below); no folder is not an error.

    Args:
        folder: where to look.
        name: only what was to become the file or folder of this name.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or (name is not None and found[1] != _shorten(name)):
            continue
        with suppress(OSError):  # what can neither be read nor removed harms nobody
            remove(path)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that it holds, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _target(path: Path) -> Path:
    """The file that a path leads to, through symbolic links; it need not exist."""
    return Path(os.path.realpath(path))


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that nobody has yet."""
    return path.parent / f".{_shorten(path.name)}.{os.urandom(4).hex()}.part"


def _shorten(name: str) -> str:
    """As much of a name as a temporary name repeats."""
    cut = os.fsencode(name)[:_NAME_BYTES]
    return name if os.fsdecode(cut) == name else cut.decode(errors="ignore")


def _flush(path: Path, flags: int) -> None:
    """Wait until what was written is on disk."""
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _flush_folder(folder: Path) -> None:
    """Wait until the new name is on disk, where the file system knows how."""
    try:
        _flush(folder, os.O_RDONLY)
    except OSError:
        return


def _refusal(path: Path, error: OSError) -> SegueError:
    """One line for an error of the operating system; it also names another file that the error is about."""
    reason = error.strerror or str(error)
    other = Path(error.filename if isinstance(error.filename, str | os.PathLike) else path)
    beside = "" if _target(other).parent == _target(path).parent else f" ({other})"
    if isinstance(error, FileNotFoundError) and not path.parent.exists():
        reason, beside = f"there is no folder {path.parent}", ""
    return SegueError(f"{path} cannot be written: {reason}{beside}")
