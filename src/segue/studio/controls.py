"""The settings as a page's controls, and as the command line that makes the same (no Gradio, no torch).

Names, defaults, bounds and help come from ``settings``; a control's value is read as the command line reads an option.
"""

import math
import shlex
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from segue.errors import SegueError
from segue.run.journal import Edit, Remake
from segue.settings.kinds import (
    GROUPS,
    FilmSettings,
    MorphSettings,
    as_json,
    checked,
    fields,
    option_name,
    preset_settings,
    texts_by_place,
)

__all__ = ["SHOWN", "Control", "check_public", "command_line", "controls", "groups", "read", "remake_line", "shown"]

SHOWN = ("num_frames", "loop", "seed")  # beside the presets; everything else is folded away
ELSEWHERE = ("prompt",)  # each keyframe has its own box
# The settings that name files or models, and the words among their values that name none.
NAMES: Mapping[str, tuple[str, ...]] = {
    "pose": ("auto", "off"),
    "control_image": (),
    "points": (),
    "captioner": ("pocket", "none"),
    "ranker": ("pocket",),
    "look": ("pocket",),
}


@dataclass(frozen=True)
class Control:
    """One control of the page.

    Attributes:
        name: the setting.
        kind: "flag", "choice", "whole", "number", "text" or "lines" (one value a line).
        label: the command line's name.
        help: the setting's help.
        choices: of a choice; "" stands for none.
    """

    name: str
    kind: Literal["flag", "choice", "whole", "number", "text", "lines"]
    label: str
    help: str
    choices: tuple[str, ...] = ()


def controls(kind: type[Any] = MorphSettings) -> dict[str, Control]:
    """The controls of settings, by name; the prompts have a box at each keyframe instead."""
    return {name: _control(name, field) for name, field in fields(kind).items() if name not in ELSEWHERE}


def groups() -> dict[str, tuple[str, ...]]:
    """The folded controls by group."""
    left = [name for name in fields(MorphSettings) if name not in (*SHOWN, *ELSEWHERE)]
    found = {group: tuple(name for name in names if name in left) for group, names in GROUPS.items()}
    rest = tuple(name for name in left if not any(name in names for names in found.values()))
    return {**found, "More": rest} if rest else found


def shown(name: str, value: Any, kind: type[Any] = MorphSettings) -> Any:
    """A setting's value as its control shows it."""
    control = controls(kind)[name]
    if control.kind == "lines":
        if isinstance(value, dict):
            value = [f"{_typed(float(place))}={text}" for place, text in value.items()]
        return "\n".join(_typed(item) for item in value)
    if isinstance(value, tuple | list):
        return " ".join(_typed(item) for item in value)
    return "" if value is None and control.kind in ("choice", "text") else value


def read(name: str, value: Any, kind: type[Any] = MorphSettings) -> Any:
    """What the settings take for a control's value; None if it is empty and the default holds.

    Raises:
        SegueError: numbers are asked for and something else is there.
    """
    control = controls(kind)[name]
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if control.kind == "whole":
        number = float(value)
        if not math.isfinite(number) or number != int(number):
            raise SegueError(f"{name}: a whole number, not {value}")
        return int(number)
    if control.kind == "lines":
        lines = [line.strip() for line in str(value).splitlines() if line.strip()]
        return texts_by_place(name, lines) if get_origin(fields(kind)[name].annotation) is dict else tuple(lines)
    if get_origin(fields(kind)[name].annotation) is tuple:
        return _numbers(name, str(value))
    return value


def check_public(values: Mapping[str, Any]) -> None:
    """Refuse settings by which a page that strangers see would read the server's files or load its models.

    Raises:
        SegueError: one of them names a file or a model.
    """
    for name, words in NAMES.items():
        if (value := values.get(name)) and value not in words:
            said = f"only {' or '.join(words)}" if words else "nothing"
            raise SegueError(f"{name}: a shared studio takes {said} here, no files or models by name")


def command_line(
    images: Sequence[str], output: str, settings: MorphSettings, film: FilmSettings, model: Mapping[str, str | None]
) -> str:
    """The command that makes the same film: what differs from the defaults is named, and the run's precision.

    The precision that is chosen by default depends on the machine.
    """
    words = ["segue", "morph", *images, "-o", output]
    name, controlnet, dtype = model.get("name"), model.get("controlnet"), model.get("dtype")
    words += ["--model", name] if name and name != "pocket" else []
    words += ["--controlnet", controlnet] if controlnet else []
    words += ["--dtype", dtype] if dtype else []
    usual = checked(MorphSettings, preset_settings("balanced", name))
    for values, default in ((settings, as_json(usual)), (film, as_json(FilmSettings()))):
        for field, value in as_json(values).items():
            if value != default[field]:
                words += _option(field, value)
    return shlex.join(words)


def remake_line(output: str, run: Path, remake: Remake, earlier: Sequence[Remake]) -> str:
    """The command that makes a frame again as a remake did in a run folder, after the earlier ones."""
    words = ["segue", "remake", output, "--frame", str(_place(remake.frame.place))]
    if remake.candidate is not None:
        words += ["--candidate", str(remake.candidate)]
    elif remake.attempt:
        edit = remake.attempt.edit
        named = {
            "--prompt": edit.prompt,
            "--negative-prompt": edit.negative_prompt,
            "--seed": edit.seed,
            "--noise": edit.noise,
            "--pose": None if edit.pose is None else str(run / edit.pose),
        }
        words += [word for option, value in named.items() if value is not None for word in (option, _typed(value))]
        if edit == Edit() and any(other.frame == remake.frame for other in earlier):
            words.append("--reset")  # without it the frame would keep what it had of its own
    return shlex.join(words)


def _place(place: Fraction) -> str:
    """A place as --frame takes it; a whole number would be a frame's number."""
    return f"{place}" if place.denominator > 1 else f"{float(place)}"


def _option(field: str, value: Any) -> list[str]:
    """One setting as it is typed."""
    flag = option_name(field)
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, dict):
        return [word for place, text in value.items() for word in (flag, f"{place}={text}")]
    if isinstance(value, list):
        is_range = get_origin(fields(MorphSettings)[field].annotation) is tuple and field == "noise"
        items = [_typed(item) for item in value]
        return [flag, *items] if is_range else [word for item in items for word in (flag, item)]
    return [flag, _typed(value)]


def _control(name: str, field: FieldInfo) -> Control:
    label, text = option_name(name), field.description or ""
    annotation = _plain(field.annotation)
    if annotation is bool:
        return Control(name, "flag", label, text)
    if get_origin(annotation) is Literal:
        optional = type(None) in get_args(field.annotation)
        return Control(name, "choice", label, text, (*([""] if optional else []), *get_args(annotation)))
    if annotation is int:
        return Control(name, "whole", label, text)
    if annotation is float:
        return Control(name, "number", label, text)
    is_texts = get_origin(annotation) is dict or (get_origin(annotation) is tuple and get_args(annotation)[0] is str)
    return Control(name, "lines" if is_texts else "text", label, text)


def _plain(annotation: Any) -> Any:
    """An annotation without None and Annotated."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _plain(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def _typed(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(_typed(item) for item in value)
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)  # all digits of a number


def _numbers(name: str, text: str) -> tuple[Any, ...]:
    """Numbers with spaces between; "0.5,0" is a pair."""
    try:
        items = [tuple(float(part) for part in word.split(",")) for word in text.split()]
    except ValueError:
        raise SegueError(f"{name}: numbers with spaces between them, not '{text}'") from None
    return tuple(item if len(item) > 1 else item[0] for item in items)
