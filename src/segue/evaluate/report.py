"""The report of an evaluation: one HTML file that needs nothing else, and the same as JSON and CSV.

report.html   table, differences, charts, film strips
report.json   everything, as ``results.Report``
report.csv    the table: a row for each scheme, measure, network and group
films.csv     a row for each film, a column for each measure
"""

import csv
import io
import json
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from PIL import Image

from segue.errors import SegueError
from segue.evaluate.page import page_of
from segue.evaluate.results import NOTES, REPORT_FILE, Cell, FilmReport, Report
from segue.files import check_apart, write_bytes, write_json, write_text

__all__ = ["check_report", "write_report"]

TABLES = ("report.csv", "films.csv")
PAGE = "report.html"
STRIP_HEIGHT = 56
STRIP_QUALITY = 72


def write_report(report: Report, output: Path) -> Path:
    """Write the report into its evaluation's folder; returns the HTML file. Its own time counts as everything else."""
    begun = time.perf_counter()
    strips = {_key(film): _strip(film, output) for film in report.films}
    if report.seconds:
        seconds = {**report.seconds, "rest": report.seconds["rest"] + time.perf_counter() - begun}
        report = report.with_seconds(**seconds)
    write_json(output / REPORT_FILE, json.loads(json.dumps(asdict(report))))
    for name, text in zip(TABLES, (_table(report), _films(report)), strict=True):
        write_text(output / name, text)
    page = output / PAGE
    write_text(page, page_of(report, strips))
    return page


def check_report(output: Path, sources: Sequence[Path] = ()) -> None:
    """SegueError, before anything is computed, where the folder is no place for an evaluation of these files."""
    if output.exists() and not output.is_dir():
        raise SegueError(f"{output} is a file; an evaluation needs a folder")
    ours = (NOTES, REPORT_FILE, "films/*/*.json")  # of a folder of films only an evaluation has records
    if output.is_dir() and any(output.iterdir()) and not any(any(output.glob(name)) for name in ours):
        raise SegueError(f"{output} holds other files and no evaluation; choose another output")
    for name in (REPORT_FILE, *TABLES, PAGE, "runs"):
        check_apart(output / name, sources)


def _table(report: Report) -> str:
    return _csv([field.name for field in fields(Cell)], [list(asdict(cell).values()) for cell in report.cells])


def _films(report: Report) -> str:
    keys = list(dict.fromkeys(key for film in report.films for key in film.values))
    rows = [[film.scheme, film.pair, film.group, *(film.values.get(key) for key in keys)] for film in report.films]
    return _csv(["scheme", "pair", "group", *keys], rows)


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _key(film: FilmReport) -> tuple[str, str]:
    return film.scheme, film.pair


def _strip(film: FilmReport, output: Path) -> str:
    """All frames of a film side by side, as a data address; kept beside the evaluation."""
    path = output / "strips" / film.scheme / f"{film.pair}.webp"
    newest = max((output / name).stat().st_mtime_ns for name in film.frames)
    if not path.exists() or path.stat().st_mtime_ns < newest:
        write_strip(path, [output / name for name in film.frames])
    return f"data:image/webp;base64,{b64encode(path.read_bytes()).decode()}"


def write_strip(path: Path, frames: Sequence[Path]) -> None:
    """Write frames side by side."""
    small = []
    for frame in frames:
        with Image.open(frame) as file:
            width = max(1, round(file.width * STRIP_HEIGHT / file.height))
            small.append(file.convert("RGB").resize((width, STRIP_HEIGHT), Image.Resampling.LANCZOS))
    strip = Image.new("RGB", (sum(image.width for image in small), STRIP_HEIGHT))
    place = 0
    for image in small:
        strip.paste(image, (place, 0))
        place += image.width
    text = io.BytesIO()
    strip.save(text, format="WEBP", quality=STRIP_QUALITY, method=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.getvalue())
