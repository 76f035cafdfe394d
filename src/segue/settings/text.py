"""Settings as text: what a shell, the page, a manifest and a settings file say, and how it is written there.

A settings file is TOML with the library's names, by themselves or in a table for each group:

    images = ["cat.png", "tiger.png"]
    [frames]
    num_frames = 33
    noise = [0.2, 0.4]
"""

import json
import math
import os
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from segue.errors import SegueError
from segue.files import write_text
from segue.settings.kinds import ALL, GROUPS, Settings, hint

__all__ = [
    "as_json",
    "as_text",
    "choices_of",
    "differences",
    "from_text",
    "model_differences",
    "option_name",
    "parse_lora",
    "read_config",
    "rebase_paths",
    "shape_of",
    "texts_by_place",
    "write_config",
]

Shape = Literal["flag", "choice", "whole", "number", "text", "numbers", "texts", "places"]

BESIDE = ("images", "output", "preset")  # what a settings file holds beside settings
TABLES: Mapping[str, tuple[str, ...]] = {group.split()[0].lower(): names for group, names in GROUPS.items()}
WORDS = ("", "auto", "off", "none", "pocket")  # that name no file


def option_name(field: str) -> str:
    """The command line's name of a setting: --num-frames for num_frames."""
    return "--" + field.replace("_", "-")


def shape_of(name: str) -> Shape:
    """What a setting's text is like: several "numbers", or "texts" or "places" (PLACE=TEXT) on lines of their own."""
    plain = _plain(ALL[name].annotation)
    origin, args = get_origin(plain), get_args(plain)
    if origin is tuple:
        return "texts" if _plain(args[0]) is str else "numbers"
    if origin in (dict, Literal):
        return "places" if origin is dict else "choice"
    known: Mapping[Any, Shape] = {bool: "flag", int: "whole", float: "number"}
    return known.get(plain, "text")


def choices_of(name: str) -> tuple[str, ...]:
    """The values of a choice; "" first where none needs to be chosen."""
    annotation = ALL[name].annotation
    return (*([""] if type(None) in get_args(annotation) else []), *get_args(_plain(annotation)))


def from_text(name: str, value: Any) -> Any:
    """What the settings take for a setting as text; what is no text stays as it is.

    Several numbers stand with spaces between, several texts on a line each; both may be JSON.

    Raises:
        SegueError: broken JSON, or a line of ``prompt_at`` is something else than PLACE=TEXT.
    """
    shape = shape_of(name)
    if isinstance(value, str) and shape in ("numbers", "texts", "places"):
        if value.lstrip().startswith(("[", "{")):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise SegueError(f"{name}: broken JSON: {value[:80]!r}") from error
        else:
            value = (
                value.split() if shape == "numbers" else [line.strip() for line in value.splitlines() if line.strip()]
            )
    if shape == "places" and isinstance(value, Mapping):
        value = [f"{place}={text}" for place, text in value.items()]
    is_lines = isinstance(value, list) and all(isinstance(line, str) for line in value)
    return texts_by_place(name, value) if shape == "places" and is_lines else value


def as_text(value: Any) -> str:
    """The text of a setting's value, which ``from_text`` reads: 0.3 0.55 for numbers, texts on lines of their own."""
    if isinstance(value, Mapping):
        return "\n".join(f"{as_text(float(place))}={text}" for place, text in value.items())
    if isinstance(value, list | tuple):
        parts = [",".join(map(as_text, part)) if isinstance(part, list | tuple) else as_text(part) for part in value]
        return ("\n" if any(isinstance(part, str) for part in value) else " ").join(parts)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")  # all digits of a number
    return "" if value is None else str(value)


def parse_lora(text: str) -> tuple[Path, float]:
    """The file of a LoRA and its weight, which is 1 where the text is not FILE:WEIGHT.

    Raises:
        SegueError: the weight is infinite or no number at all.
    """
    file, _, number = text.rpartition(":")
    try:
        weight = float(number)
    except ValueError:  # a name that has a colon, or none: C:\ink.safetensors
        return Path(text), 1.0
    if not file:
        return Path(text), 1.0
    if not math.isfinite(weight):
        raise SegueError(f"lora takes FILE or FILE:WEIGHT, such as {file}:0.8, not '{text}'")
    return Path(file), weight


def texts_by_place(name: str, lines: Sequence[str]) -> dict[float, str]:
    """What lines of PLACE=TEXT say, where a place is typed as 0.5 or 1/2.

    Raises:
        SegueError: a line is something else, or a place has two texts; the message begins with ``name``.
    """
    found: dict[float, str] = {}
    for line in lines:
        typed, equals, text = line.partition("=")
        over, slash, under = typed.partition("/")
        try:
            place = float(over) / float(under if slash else 1)
        except (ValueError, ZeroDivisionError):
            place = math.nan
        if not equals or not math.isfinite(place):
            example = '0.5="a red fox" or 1/2="a red fox"'
            raise SegueError(f"{name} takes PLACE=TEXT, such as {example}, not '{line}'")
        if place in found:
            raise SegueError(f"{name} has two texts for the place {place:g}")
        found[place] = text.strip()
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a settings file, and the images, output and preset that it may name.

    Files that it names are as seen from where it is.

    Raises:
        SegueError: it cannot be read, is no TOML, or holds an unknown name.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SegueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # also what is no UTF-8
        raise SegueError(f"{path} is not a TOML file: {error}") from error
    values: dict[str, Any] = {}
    for name, value in found.items():
        values |= value if name in TABLES and isinstance(value, dict) else {name: value}
    for name, value in values.items():
        if name not in ALL and name not in BESIDE:
            raise SegueError(f"{path}: unknown setting '{name}'{hint(name, ALL)}")
        texts = value if name == "images" and isinstance(value, list) else [value]
        if name in BESIDE and not all(isinstance(text, str) for text in texts):
            raise SegueError(f"{path}: {name} is a text, or for images a list of texts, not {value!r}")
    return rebase_paths({name: from_text(name, v) if name in ALL else v for name, v in values.items()}, path.parent)


def write_config(path: Path, values: Mapping[str, Any], place: Path) -> None:
    """Write a settings file.

    Args:
        path: the file.
        values: settings as JSON, images and output; None for what is not given.
        place: the folder in which the file will be; files that are named are written as seen from there.
    """
    seen = rebase_paths({name: value for name, value in values.items() if value is not None}, Path(), place)
    lines = ["# segue morph --config settings.toml makes this film; options on the command line take precedence."]
    lines += [f"{name} = {_toml(seen[name])}" for name in BESIDE if name in seen]
    for table, names in TABLES.items():
        if there := [f"{name} = {_toml(seen[name])}" for name in names if name in seen]:
            lines += ["", f"[{table}]", *there]
    write_text(path, "\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def rebase_paths(values: Mapping[str, Any], start: Path, to: Path | None = None) -> dict[str, Any]:
    """Values whose files are seen from one folder, as they are seen from another one; absolute if none is given.

    Names that may be a file's or a model's are a file's where there is one.
    """

    def path(name: str) -> str:
        found = os.path.normpath((start / name.strip()).absolute())
        try:
            return os.path.relpath(found, to) if to else found
        except ValueError:  # on another drive
            return found

    def perhaps(name: str) -> str:
        return path(name) if name not in WORDS and (start / name).exists() else name

    def weighted(text: str) -> str:
        file, weight = parse_lora(text)
        return path(str(file)) + ("" if weight == 1 else f":{weight!r}")

    placed = dict(values)
    for name, value in values.items():
        if name in ("images", "control_image", "lora", "embedding"):
            several = [value] if isinstance(value, str) else value
            if isinstance(several, list | tuple) and all(isinstance(file, str) for file in several):
                placed[name] = [weighted(file) if name == "lora" else path(file) for file in several]
        elif not isinstance(value, str) or value in WORDS:
            continue
        elif name == "pose":
            placed[name] = ",".join(map(path, value.split(",")))
        elif name in ("output", "points"):
            placed[name] = path(value)
        elif name in ("model", "controlnet", "image_adapter", "vae", "captioner", "ranker"):
            placed[name] = perhaps(value)
        elif name in ("spacing", "easing"):  # perceptual:lpips:FILE
            head, _, file = value.rpartition(":")
            placed[name] = f"{head}:{perhaps(file)}" if head else value
    return placed


def _plain(annotation: Any) -> Any:
    """An annotation without None and Annotated."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _plain(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def as_json(settings: Settings) -> dict[str, Any]:
    """The settings as plain JSON values by name; ``parse_settings`` reads them back."""
    values: dict[str, Any] = json.loads(settings.model_dump_json())
    return values


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two settings as JSON, one text each: "num_frames: 17, now 33"."""
    return [
        f"{name}: {before.get(name)!r}, now {after.get(name)!r}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def model_differences(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What differs between the parts of two models: "the VAE scaling factor was 0.18215, is 0.13025"."""
    if not before:
        return "what differs is unknown"
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if "scheduler" in changed:  # of another class, which has settings of its own
        changed = [name for name in changed if not name.startswith("scheduler ")]
    texts = []
    for name in changed:
        old, now = before.get(name, "not set"), after.get(name, "not set")
        is_digest = name.endswith((" weights", " adapters", " settings"))
        texts.append(f"the {name} differ" if is_digest else f"the {name} was {old}, is {now}")
    return ", ".join(texts)
