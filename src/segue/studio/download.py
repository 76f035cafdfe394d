"""The film as a file to take away, written when it is asked for."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from segue.errors import SegueError
from segue.files import writing
from segue.film.morph import Morph
from segue.settings.kinds import FilmSettings

__all__ = ["FORMATS", "written"]

FORMATS = {kind: f"morph.{kind}" for kind in ("mp4", "mov", "webm", "gif", "webp")}
FORMATS |= {"png": "frames.zip", "sheet": "sheet.png"}


def written(morph: Morph, kind: str, folder: Path, film: FilmSettings) -> Path:
    """A film as a file of a kind of FORMATS, in a folder; written anew, so that it is never an older one.

    Raises:
        SegueError: an unknown kind, or a place that cannot be written.
    """
    if kind not in FORMATS:
        raise SegueError(f"there is no download {kind}; choose from {', '.join(FORMATS)}")
    path = folder / FORMATS[kind]
    if kind == "sheet":
        morph.contact_sheet(path)
    elif kind == "png":
        _zipped(morph, path, film)
    else:
        morph.save(path, film)
    return path


def _zipped(morph: Morph, path: Path, film: FilmSettings) -> None:
    """The frames as PNGs in one archive."""
    with writing(path) as temporary, TemporaryDirectory(dir=path.parent) as folder:
        morph.save(Path(folder) / "frames", film)
        archive = shutil.make_archive(str(Path(folder) / "all"), "zip", Path(folder) / "frames")
        Path(archive).replace(temporary)
