"""A row for a worker that does not see its files: sent with all that it is made of, and its film sent back.

An archive (ZIP) holds ``inputs/`` (by number) and ``run/``, what there is of the run; back come ``run/`` and the
film. The run takes its place in the output's folder as a whole.
"""

import io
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from segue.batch.rows import Row
from segue.batch.work import Loaded, Order, Result
from segue.files import file_of, write_bytes, writing_folder
from segue.film.morph import Morph
from segue.run.schema import FILMS_FILE
from segue.settings.kinds import FilmSettings, parse_settings

__all__ = ["make_apart", "pack", "unpack"]

LOCK = "lock"


def pack(order: Order) -> Order:
    """The order with all files that it needs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", strict_timestamps=False) as archive:
        for i, path in enumerate(order.row.inputs):
            archive.write(file_of(path), f"inputs/{_archive_name(i, file_of(path))}")
        _add_run(archive, order.row.folder)
    return replace(order, archive=buffer.getvalue())


def make_apart(loaded: Loaded, order: Order, frame: Callable[[], None], say: Callable[[str], None]) -> Result:
    """Make a row in a temporary folder, from its archive; the result carries the run and the film."""
    assert order.archive is not None
    with tempfile.TemporaryDirectory(prefix="segue-") as name:
        folder = Path(name)
        with zipfile.ZipFile(io.BytesIO(order.archive)) as archive:
            archive.extractall(folder)
        row = _move_row(order.row, folder)
        result = loaded.make(replace(order, row=row, archive=None), frame, say)
        if result.reason:
            return result
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", strict_timestamps=False) as archive:
            _add_run(archive, row.folder)
            if row.film is not None:
                archive.write(row.film, row.film.name)
        return replace(result, archive=buffer.getvalue())


def unpack(row: Row, data: bytes) -> None:
    """Put a run and its film, which came back from afar, in their places; raises SegueError if the disk refuses."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        with writing_folder(row.folder) as folder:
            if (films := row.folder / FILMS_FILE).exists():
                shutil.copy(films, folder / FILMS_FILE)
            for name in archive.namelist():
                if name.startswith("run/"):
                    path = folder / name.removeprefix("run/")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(name))
        if row.film is not None:
            write_bytes(row.film, archive.read(f"film{row.film.suffix}"))
            Morph(row.folder).remember(row.film, parse_settings(FilmSettings, row.film_values))


def _move_row(row: Row, folder: Path) -> Row:
    """The row with its files in another folder."""
    places = {path: folder / "inputs" / _archive_name(i, path) for i, path in enumerate(row.inputs)}
    values = dict(row.values)
    poses = row.inputs[len(row.images) : len(row.inputs) - len(row.settings.control_image)]
    if poses:
        values["pose"] = ",".join(str(places[pose]) for pose in poses)
    if row.settings.control_image:
        values["control_image"] = tuple(str(places[Path(image)]) for image in row.settings.control_image)
    return replace(
        row,
        images=tuple(places[image] for image in row.images),
        folder=folder / "run",
        film=None if row.film is None else folder / f"film{row.film.suffix}",
        values=values,
    )


def _archive_name(number: int, path: Path) -> str:
    return f"{number}{path.suffix}"


def _add_run(archive: zipfile.ZipFile, folder: Path) -> None:
    """What there is of a run, but its lock and what names other places."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (LOCK, FILMS_FILE) and not name.endswith(".part"):
            archive.write(path, f"run/{name}")
