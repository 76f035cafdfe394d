"""Which pairs are measured: a JSON Lines file, a table (CSV, with commas, semicolons or tabs), or a folder of pictures.

The pictures of a folder are NAME-a.png and NAME-b.png.
Columns: a, b (the images, relative to the manifest's folder), and, where they are wanted, name, group, prompt (of
both) or prompt_a and prompt_b, negative_prompt, pose_a and pose_b (OpenPose JSON files); and for ``segue batch`` any
setting by its name. Everything that is wrong is reported at once, line by line, before anything is computed.
"""

import csv
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segue.errors import FaultsError, SegueError, hearing
from segue.files import file_of, read_text
from segue.pictures.images import LEAST_SIDE, load, shown_size
from segue.pose.keypoints import Pose

__all__ = ["COLUMNS", "Pair", "faults_message", "pairs_and_faults", "read_pairs"]

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SEPARATORS = (",", ";", "\t")  # of the cells of a table; the one that its first line has most of
SHOWN = 50  # faults; more than these are only counted


LONGEST_NAME = 100  # letters; with an ending it stays below what folders take


class Pair(BaseModel):
    """Two images between which a film is made.

    Attributes:
        name: names the pair's folders; letters, digits, dots, dashes and underscores.
        group: pairs of a group are also shown together.
        a, b: the images.
        prompt: of both images; or prompt_a and prompt_b, of each.
        negative_prompt: what the film should not show.
        pose_a, pose_b: OpenPose JSON files, both or none.
        settings: the row's own settings, as they stand in the manifest.
        place: where the pair stands in the manifest, as "line 3".
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    a: Path
    b: Path
    name: str = Field(default="", max_length=LONGEST_NAME)
    group: str = ""
    prompt: str = ""
    prompt_a: str = ""
    prompt_b: str = ""
    negative_prompt: str = ""
    pose_a: Path | None = None
    pose_b: Path | None = None
    settings: Mapping[str, Any] = Field(default_factory=dict)
    place: str = ""

    @property
    def prompts(self) -> tuple[str, str] | None:
        """The prompts of both images; None if there are none."""
        if self.prompt:
            return self.prompt, self.prompt
        return (self.prompt_a, self.prompt_b) if self.prompt_a else None


NO_COLUMNS = ("settings", "place")
COLUMNS = tuple(name for name in Pair.model_fields if name not in NO_COLUMNS)


def read_pairs(path: Path, settings: Collection[str] = (), *, one_size: bool = True) -> tuple[Pair, ...]:
    """The pairs of a manifest or folder.

    Args:
        path: the manifest or folder.
        settings: further columns that a row may have.
        one_size: whether both images of a pair must have one size, and be whole.

    Raises:
        SegueError: anything is wrong; the message lists every fault with its line.
    """
    pairs, faults = pairs_and_faults(path, settings, one_size=one_size)
    if faults:
        raise FaultsError(faults_message(path, faults))
    return pairs


def pairs_and_faults(
    path: Path, settings: Collection[str] = (), *, one_size: bool = True
) -> tuple[tuple[Pair, ...], list[str]]:
    """The pairs of a manifest or folder in which nothing is wrong, and all faults of the others; see ``read_pairs``."""
    faults: list[str] = []
    pairs: dict[str, tuple[str, Pair]] = {}
    for place, row in _rows(path, (*COLUMNS, *settings), faults):
        pair = _check_row(row, path if path.is_dir() else path.parent, settings, one_size, place, faults)
        if pair is None:
            continue
        if pair.name in pairs:
            faults.append(f"{place}: the name '{pair.name}' is taken by {pairs[pair.name][0]}")
        pairs.setdefault(pair.name, (place, pair))
    if not pairs and not faults:
        raise SegueError(f"{path} has no pairs; a folder needs NAME-a.png and NAME-b.png")
    return tuple(pair for _, pair in pairs.values()), faults


def faults_message(path: Path, faults: Sequence[str]) -> str:
    """All faults of a manifest, a line each."""
    more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return f"{path} has {count}:\n  " + "\n  ".join(" ".join(fault.split()) for fault in faults[:SHOWN]) + more


def _rows(path: Path, columns: Collection[str], faults: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a manifest, each with the place that a fault in it is reported at."""
    if path.is_dir():
        yield from _folder(path, faults)
        return
    text = read_text(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        yield from _table(text, columns, faults)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        yield from _json_lines(text, faults)
    else:
        raise SegueError(f"{path}: a manifest is a .jsonl, .csv or .tsv file, or a folder of NAME-a.png and NAME-b.png")


def _json_lines(text: str, faults: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):  # a text may hold other line ends
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_refuse_duplicates)
        except json.JSONDecodeError as error:
            faults.append(f"line {number}: broken JSON at column {error.colno}: {error.msg.lower()}")
            continue
        except SegueError as error:
            faults.append(f"line {number}: {error}")
            continue
        except (ValueError, RecursionError):
            faults.append(f"line {number}: a number is too long, or lists are nested too deep")
            continue
        if isinstance(row, dict):
            yield f"line {number}", row
        else:
            faults.append(f'line {number}: not an object such as {{"a": "cat.png", "b": "tiger.png"}}')


def _table(text: str, columns: Collection[str], faults: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    first = text.partition("\n")[0].rstrip("\r")
    separator = max(SEPARATORS, key=first.count)  # of equal ones the earlier
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    lines = _cells(reader, faults)
    if first.lower() == f"sep={separator}":  # how Excel is told
        next(lines)
    header = [name.strip() for name in next(lines, [])]
    wrong = [f"unknown column '{name}'" for name in header if name not in columns]
    wrong += [f"no column '{name}'" for name in ("a", "b") if name not in header]
    wrong += [f"column '{name}' twice" for name in sorted({n for n in header if header.count(n) > 1})]
    if wrong:
        faults.append(f"line 1: {', '.join(wrong)}; choose from {', '.join(COLUMNS)}")
        return
    for cells in lines:
        if not cells:
            continue
        if len(cells) != len(header):
            faults.append(f"line {reader.line_num}: {len(cells)} cells under {len(header)} columns")
            continue
        yield f"line {reader.line_num}", {n: cell for n, cell in zip(header, cells, strict=True) if cell.strip()}


def _cells(reader: Any, faults: list[str]) -> Iterator[list[str]]:
    """The lines of a table, up to one that is broken."""
    try:
        yield from reader
    except csv.Error as error:
        faults.append(f"line {max(1, reader.line_num)}: broken CSV: {error}")


def _folder(path: Path, faults: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    found: dict[str, dict[str, str]] = {}
    for file in sorted(path.iterdir()):
        name, dash, side = file.stem.rpartition("-")
        if file.suffix.lower() not in IMAGES or not dash or side not in ("a", "b"):
            continue
        if side in found.setdefault(name, {}):
            faults.append(f"{file.name}: {found[name][side]} is the same image")
        found[name][side] = file.name
    for name, sides in found.items():
        if len(sides) == 2:
            yield name, {"name": name, **sides}
        else:
            (there,), missing = sides.values(), "b" if "a" in sides else "a"
            faults.append(f"{there}: there is no {name}-{missing} beside it")


def _check_row(
    row: Mapping[str, Any],
    folder: Path,
    settings: Collection[str],
    one_size: bool,
    place: str,
    faults: list[str],
) -> Pair | None:
    """The pair of a row with whole paths and a name; None where something is wrong."""
    before = len(faults)
    own = {name: value for name, value in row.items() if name in settings}
    try:
        faults += [f"{place}: unknown column '{name}'" for name in NO_COLUMNS if name in row]
        pair = Pair.model_validate({name: value for name, value in row.items() if name not in settings})
    except ValidationError as error:
        faults += [f"{place}: {_describe_fault(fault)}" for fault in error.errors(include_url=False)]
        return None
    files = {n: folder / path for n in ("a", "b", "pose_a", "pose_b") if (path := getattr(pair, n)) is not None}
    name = pair.name or f"{pair.a.stem}-{pair.b.stem}"
    if len(name) > LONGEST_NAME and all(map(_is_file, files.values())):
        faults.append(f"{place}: the name '{name[:40]}...' is longer than {LONGEST_NAME} characters; give one")
    elif not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        faults.append(f"{place}: the name '{name}' must consist of letters, digits, dots, dashes and underscores")
    if pair.prompt and (pair.prompt_a or pair.prompt_b):
        faults.append(f"{place}: prompt is for both images; give it, or prompt_a and prompt_b")
    for first, second in (("prompt_a", "prompt_b"), ("pose_a", "pose_b")):
        if bool(getattr(pair, first)) != bool(getattr(pair, second)):
            faults.append(f"{place}: {first} and {second} go together")
    faults += [f"{place}: there is no file {files[n]}" for n in files if not _is_file(files[n])]
    sizes = {n: _size(files[n], place, faults, whole=one_size) for n in ("a", "b") if _is_file(files[n])}
    for pose, image in (("pose_a", "a"), ("pose_b", "b")):
        if pose in files and _is_file(files[pose]):
            try:
                Pose.load(files[pose], sizes.get(image))
            except SegueError as error:
                faults.append(f"{place}: {error}")
    if one_size and len(sizes) == 2 and None not in sizes.values() and sizes["a"] != sizes["b"]:
        shown = {n: "{} x {}".format(*(size or ())) for n, size in sizes.items()}
        faults.append(f"{place}: a is {shown['a']} pixels, b is {shown['b']}; both must have the same size")
    if len(faults) > before:
        return None
    return pair.model_copy(update={**files, "name": name, "settings": own, "place": place})


def _refuse_duplicates(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises SegueError if a column is there twice."""
    found = dict(items)
    if twice := [name for i, (name, _) in enumerate(items) if name in dict(items[:i])]:
        raise SegueError(f"column '{twice[0]}' appears twice")
    return found


def _is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    try:
        return file_of(path).is_file()
    except OSError:
        return False


def _size(file: Path, place: str, faults: list[str], *, whole: bool) -> tuple[int, int] | None:
    """Width and height of an image as it is shown; None if it cannot be read, to its end if ``whole``."""
    try:
        with hearing():  # warnings are told when the film is made
            if whole:
                load(file, least=LEAST_SIDE)
            return shown_size(file)
    except SegueError as error:
        faults.append(f"{place}: {error}")
        return None


def _describe_fault(fault: Mapping[str, Any]) -> str:
    """One fault of pydantic in words."""
    column = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"no column '{column}'"
    if fault["type"] == "extra_forbidden":
        return f"unknown column '{column}'"
    return f"{column}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
