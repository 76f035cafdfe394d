"""The settings as a page's controls, and as the command line that makes the same (no Gradio, no torch).

Names, defaults, bounds and help come from ``settings``; a control's value is read as the command line reads an option.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from segue.errors import SegueError
from segue.run.journal import Edit, Remake
from segue.settings.kinds import GROUPS, LOADED, RARE, FilmSettings, MorphSettings, fields, parse_settings
from segue.settings.presets import preset_settings
from segue.settings.text import as_json, as_text, choices_of, from_text, option_name, shape_of

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
    "spacing": ("uniform", "perceptual", "perceptual:pocket"),
}


@dataclass(frozen=True)
class Control:
    """One control of the page.

    Attributes:
        name: the setting.
        kind: "flag", "choice", "whole", "number", "text" or "lines" (one value a line).
        label: the command line's name, or the library's of what it takes by --set.
        help: the setting's help.
        choices: of a choice; "" stands for none.
    """

    name: str
    kind: str
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
    return {group: names for group, names in found.items() if names}


def shown(name: str, value: Any) -> Any:
    """A setting's value as its control shows it."""
    return value if shape_of(name) in ("flag", "whole", "number") else as_text(value)


def read(name: str, value: Any) -> Any:
    """What the settings take for a control's value; None where it is empty and the default holds."""
    return None if value is None or (isinstance(value, str) and not value.strip()) else from_text(name, value)


def check_public(values: Mapping[str, Any]) -> None:
    """Refuse settings by which a page that strangers see would read the server's files or load its models.

    Raises:
        SegueError: one of them names a file or a model.
    """
    for name, words in NAMES.items():
        if (value := values.get(name)) and value not in words:
            said = f"only {' or '.join(words)}" if words else "nothing"
            raise SegueError(f"{name}: a shared studio takes {said} here, no files or models by name")
    if str(values.get("easing", "")).partition(":")[2] not in ("", "pocket"):
        raise SegueError("easing: a shared studio takes no other network than pocket, no files or models by name")


def command_line(
    images: Sequence[str], output: str, settings: MorphSettings, film: FilmSettings, model: Mapping[str, Any]
) -> str:
    """The command that makes the same film: what differs from the defaults is named, and the run's precision.

    The precision that is chosen by default depends on the machine.
    """
    words = ["segue", "morph", *images, "-o", output]
    name = model.get("name")
    words += ["--model", name] if name and name != "pocket" else []
    for setting in LOADED:
        if value := model.get(setting):
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [option_name(setting), str(one)]
    usual = parse_settings(MorphSettings, preset_settings("balanced", name))
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
            "--image": None if edit.image is None else str(run / edit.image),
        }
        words += [word for option, value in named.items() if value is not None for word in (option, as_text(value))]
        if edit == Edit() and any(other.frame == remake.frame for other in earlier):
            words.append("--reset")  # without it the frame would keep what it had of its own
    return shlex.join(words)


def _place(place: Fraction) -> str:
    """A place as --frame takes it; a whole number would be a frame's number."""
    return f"{place}" if place.denominator > 1 else f"{float(place)}"


def _option(name: str, value: Any) -> list[str]:
    """One setting as it is typed."""
    shape, flag = shape_of(name), option_name(name)
    lines = as_text(value).split("\n") if shape in ("texts", "places") else [as_text(value)]
    if name in RARE:
        return [word for line in lines for word in ("--set", f"{name}={line}")]
    if shape == "flag":
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, *lines[0].split()] if shape == "numbers" else [word for line in lines for word in (flag, line)]


def _control(name: str, field: FieldInfo) -> Control:
    shape, label = shape_of(name), name if name in RARE else option_name(name)
    kind = {"numbers": "text", "texts": "lines", "places": "lines"}.get(shape, shape)
    return Control(name, kind, label, field.description or "", choices_of(name) if kind == "choice" else ())
