"""What is known of the rows of a batch: what became of each, and what those that were made were made of."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segue.batch.archive import unpack
from segue.batch.rows import NOTES, Row
from segue.batch.work import Result
from segue.errors import SegueError
from segue.files import write_json
from segue.film.morph import Morph
from segue.settings.kinds import ModelSettings

__all__ = ["Notes", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What became of a row.

    Attributes:
        state: made now, kept from before, or failed.
        frames: of the film; seconds: of its last try.
        attempts: how often it was begun now.
        reason: why it failed.
    """

    name: str
    state: Literal["made", "kept", "failed"]
    frames: int = 0
    seconds: float = 0.0
    attempts: int = 0
    reason: str = ""


class Notes:
    """The notes of a batch: of each row that was made, what it was made of and what came out."""

    def __init__(self, output: Path, model: ModelSettings) -> None:
        self.output, self.model = output, model
        self._begun: dict[str, dict[str, Any]] = {}  # the cache keys of the rows that are being made

    def outcome(self, row: Row) -> Outcome | None:
        """The outcome of a row that was made before, of the same images and settings, and is still there."""
        try:
            noted: dict[str, Any] = json.loads(self._path(row).read_text(encoding="utf-8"))
            if noted["cache_key"] != row.cache_key(self.model) or not _is_there(row, noted):
                return None
            return Outcome(row.name, "kept", int(noted["frames"]), float(noted["seconds"]))
        except (OSError, SegueError, ValueError, KeyError, TypeError):
            return None

    def begin(self, row: Row) -> None:
        """Note what a row is about to be made of; OSError where a file of it is gone."""
        self._begun[row.name] = row.cache_key(self.model)

    def finish(self, row: Row, result: Result) -> None:
        """Note that a row was made, and put it in its place where it was made apart.

        Raises:
            SegueError: its files are others than when it was begun.
            OSError: they cannot be read, or the note cannot be written.
        """
        cache_key = row.cache_key(self.model)
        if cache_key != self._begun.pop(row.name):
            raise SegueError("its pictures changed while it was made; --overwrite makes it of the new ones")
        if result.archive is not None:
            unpack(row, result.archive)
        note = {"cache_key": cache_key, "frames": result.frames, "seconds": round(result.seconds, 3)}
        write_json(self._path(row), {**note, "bytes": _bytes(row)})

    def _path(self, row: Row) -> Path:
        return self.output / NOTES / f"{row.name}.json"


def _is_there(row: Row, noted: Mapping[str, Any]) -> bool:
    """Whether a row's film is as it was written, and its frames are there."""
    size = _bytes(row)
    return size == noted.get("bytes", size) and all(path.is_file() for path in Morph(row.folder).frames.paths)


def _bytes(row: Row) -> int | None:
    """The size of a row's film."""
    return row.film.stat().st_size if row.film else None
