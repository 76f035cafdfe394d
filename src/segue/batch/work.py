"""One row is made, by whoever has the model loaded: a process of the batch, an actor on Ray, ``segue evaluate``."""

import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch

from segue.batch.rows import Row
from segue.engine.dialogue import Progress
from segue.engine.interpolator import Interpolator
from segue.errors import Notice, SegueError, hearing
from segue.film.morph import Morph
from segue.lock import InUseError
from segue.machine import free_cached, is_out_of_memory
from segue.run.schema import RUN_FILE
from segue.settings.kinds import FilmSettings, ModelSettings, parse_settings

__all__ = ["Loaded", "Order", "Result", "make_row", "result_of"]


@dataclass(frozen=True)
class Order:
    """A row to make, and how this time.

    Attributes:
        row: the row.
        overwrite: begin anew where its folder holds a run with other settings.
        batch_size: frames in one batch, where a try before this one ran out of memory.
        archive: what it is made of, for a worker that does not see the files.
    """

    row: Row
    overwrite: bool = False
    batch_size: int = 0
    archive: bytes | None = None


@dataclass(frozen=True)
class Result:
    """What became of an order.

    Attributes:
        frames: frames of the film, 0 if it failed.
        seconds: how long it took.
        reason: why it failed, in one line; empty if it did not.
        cause: "", "memory" or "in use", where another try may do better.
        batch_size: frames in one batch of a run that ran out of memory.
        trace: where in the code it failed, if not for something that a user can get wrong.
        archive: the run and the film, from a worker that does not see the output's folder.
    """

    frames: int = 0
    seconds: float = 0.0
    reason: str = ""
    cause: str = ""
    batch_size: int = 0
    trace: str = ""
    archive: bytes | None = None


def make_row(
    interpolator: Interpolator,
    row: Row,
    *,
    overwrite: bool = False,
    batch_size: int = 0,
    callback: Callable[[Progress | Notice], None] | None = None,
) -> Morph:
    """Make the film of a row in its run folder, and write its file; what is made already is not made again."""
    values = {**row.values, **({"batch_size": batch_size} if batch_size else {})}
    morph = interpolator(*row.images, output=row.folder, overwrite=overwrite, callback=callback, **values)
    if row.film is not None:
        film = parse_settings(FilmSettings, row.film_values)
        morph.save(row.film, film)
        morph.contact_sheet(row.folder / "contact-sheet.png")
        morph.remember(row.film, film)
    return morph


class Loaded:
    """A model that was loaded once, and makes row after row."""

    def __init__(self, interpolator: Interpolator) -> None:
        self.interpolator = interpolator

    @classmethod
    def load(cls, model: ModelSettings, threads: int) -> Self:
        """Load a model; raises SegueError if it cannot be.

        Args:
            model: which checkpoint, and how it is loaded.
            threads: of the CPU, that this worker may use.
        """
        for library in ("TRANSFORMERS", "DIFFUSERS"):  # their notes are for programmers
            os.environ.setdefault(f"{library}_VERBOSITY", "error")
        torch.set_num_threads(threads)
        return cls(Interpolator.from_settings(model))

    def make(self, order: Order, frame: Callable[[], None], say: Callable[[str], None]) -> Result:
        """Make a row; whatever goes wrong becomes a result.

        Args:
            order: the row.
            frame: is called for each finished frame.
            say: is handed what a user should know, a line each.
        """
        begun = time.monotonic()

        def callback(told: Progress | Notice) -> None:
            if isinstance(told, Notice):
                say(told.text)
            elif told.frame is not None:
                frame()

        try:
            with hearing(callback):
                morph = make_row(
                    self.interpolator,
                    order.row,
                    overwrite=order.overwrite,
                    batch_size=order.batch_size,
                    callback=callback,
                )
        except Exception as error:
            return result_of(error, order.row, time.monotonic() - begun)
        finally:
            free_cached()
        return Result(len(morph), time.monotonic() - begun)


def result_of(error: Exception, row: Row, seconds: float) -> Result:
    """What an error means for a row."""
    if is_out_of_memory(error):
        return Result(0, seconds, _line(error), "memory", _batch_size(row))
    if isinstance(error, InUseError):
        return Result(0, seconds, _line(error), "in use")
    if isinstance(error, SegueError):
        return Result(0, seconds, _line(error))
    return Result(
        0, seconds, f"{type(error).__name__}: {_line(error)}", trace="".join(traceback.format_exception(error))
    )


def _batch_size(row: Row) -> int:
    """Frames in one batch of a run that was begun; 0 where it was not."""
    try:
        data: dict[str, Any] = json.loads((row.folder / RUN_FILE).read_text(encoding="utf-8"))
        return int(data["batch_size"])
    except (OSError, ValueError, KeyError):
        return 0


def _line(text: object) -> str:
    return " ".join(str(text).split())
