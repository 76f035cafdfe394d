"""The report of an evaluation: one HTML file that needs nothing else, and the same as JSON and CSV.

report.html   table, differences, charts, film strips
report.json   everything, as ``results.Report``
report.csv    the table: a row for each scheme, measure, network and group
films.csv     a row for each film, a column for each measure
sheets/       for each pair a picture with a row for each scheme
"""

import csv
import io
import json
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from segue.errors import SegueError
from segue.evaluate.page import page_of
from segue.evaluate.results import NOTES, REPORT_FILE, Cell, FilmReport, Report
from segue.files import check_apart, write_bytes, write_json, write_text

__all__ = ["check_report", "pick_evenly", "write_report"]

TABLES = ("report.csv", "films.csv")
PAGE = "report.html"
STRIP_HEIGHT = 56
STRIP_QUALITY = 72
SHEET_FRAMES, SHEET_HEIGHT, SHEET_LABELS, SHEET_QUALITY = 9, 96, 190, 85  # of each row; pixels; JPEG's


def write_report(report: Report, output: Path) -> Path:
    """Write the report into its evaluation's folder; returns the HTML file. Its own time counts as everything else."""
    begun = time.perf_counter()
    strips = {_key(film): _strip(film, output) for film in report.films}
    if report.seconds:
        seconds = {**report.seconds, "rest": report.seconds["rest"] + time.perf_counter() - begun}
        report = report.with_seconds(**seconds)
    for pair in report.pairs:
        _sheet([film for film in report.films if film.pair == pair], output)
    write_json(output / REPORT_FILE, json.loads(json.dumps(asdict(report))))
    for name, text in zip(TABLES, (_table(report), _films(report)), strict=True):
        write_text(output / name, text)
    page = output / PAGE
    write_text(page, page_of(report, strips))
    return page


def check_report(output: Path, sources: Sequence[Path] = ()) -> None:
    """Raise SegueError, before anything is computed, if the folder cannot hold an evaluation of these files."""
    if output.exists() and not output.is_dir():
        raise SegueError(f"{output} is a file; an evaluation needs a folder")
    ours = (NOTES, REPORT_FILE, "films/*/*.json")  # of a folder of films only an evaluation has records
    if output.is_dir() and any(output.iterdir()) and not any(any(output.glob(name)) for name in ours):
        raise SegueError(f"{output} holds other files but no evaluation; choose another output")
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
    frames = [output / name for name in film.frames]
    if not _is_current(path, frames):
        _write(path, _row(frames, STRIP_HEIGHT), format="WEBP", quality=STRIP_QUALITY, method=4)
    return f"data:image/webp;base64,{b64encode(path.read_bytes()).decode()}"


def _sheet(films: Sequence[FilmReport], output: Path) -> None:
    """The films of a pair below each other, as the paper compares schemes: up to 9 frames of each, evenly chosen."""
    rows = {
        film.scheme: [output / film.frames[i] for i in pick_evenly(len(film.frames), SHEET_FRAMES)] for film in films
    }
    path = output / "sheets" / f"{films[0].pair}.jpg"
    schemes = ", ".join(rows).encode()
    if _is_current(path, [frame for frames in rows.values() for frame in frames]):
        with Image.open(path) as before:
            if before.info.get("comment") == schemes:
                return
    strips = {scheme: _row(frames, SHEET_HEIGHT) for scheme, frames in rows.items()}
    width = SHEET_LABELS + max(strip.width for strip in strips.values())
    whole = Image.new("RGB", (width, len(strips) * (SHEET_HEIGHT + 2)), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(14)
    for number, (scheme, strip) in enumerate(strips.items()):
        top = number * (SHEET_HEIGHT + 2)
        whole.paste(strip, (SHEET_LABELS, top))
        draw.text((4, top + SHEET_HEIGHT // 2), scheme.replace("-denoise-", "-\ndenoise-"), "black", font, anchor="lm")
    _write(path, whole, format="JPEG", quality=SHEET_QUALITY, comment=schemes)


def pick_evenly(count: int, most: int) -> list[int]:
    """So many numbers of 0 to count - 1, evenly, both ends among them; all if there are no more."""
    chosen = min(count, most)
    return [round(i * (count - 1) / max(chosen - 1, 1)) for i in range(chosen)]


def _row(frames: Sequence[Path], height: int) -> Image.Image:
    """Frames side by side."""
    small = []
    for frame in frames:
        with Image.open(frame) as file:
            width = max(1, round(file.width * height / file.height))
            small.append(file.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
    row = Image.new("RGB", (sum(image.width for image in small), height))
    place = 0
    for image in small:
        row.paste(image, (place, 0))
        place += image.width
    return row


def _is_current(path: Path, sources: Sequence[Path]) -> bool:
    """Whether a file is there, and newer than what it is made of."""
    return path.exists() and path.stat().st_mtime_ns >= max(source.stat().st_mtime_ns for source in sources)


def _write(path: Path, image: Image.Image, **options: Any) -> None:
    data = io.BytesIO()
    image.save(data, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data.getvalue())
