"""The settings as options of the command line: names, types, defaults and help all come from ``settings``."""

import inspect
import re
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

from segue.errors import FaultsError, SegueError
from segue.settings.kinds import ALL, GROUPS, HIDDEN, RARE, MorphSettings, Settings, fields, guess_name, hint
from segue.settings.text import as_text, from_text, option_name, read_config, shape_of

__all__ = ["GroupedCommand", "faults_as_lines", "mode_of", "select_given", "with_settings"]

Command = Callable[..., None]
KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY

SEVERAL = ("numbers", "texts", "places")
METAVARS = {
    "whole": "<int>",
    "number": "<number>",
    "numbers": "<number>...",
    "text": "<text>",
    "texts": "<text>",
    "places": "<place=text>",
    "size": "<WxH>",
    "pan": "<x,y>...",
    "lora": "<file[:weight]>",
    "embedding": "<file>",
}
SOURCES: Mapping[str, Any] = {
    "set": Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="<name=value>", help="Any other setting, also several times; docs/settings.md lists them."
        ),
    ],
    "config": Annotated[
        Path | None,
        typer.Option("--config", help="TOML file of settings, such as a run folder's settings.toml.", metavar="<file>"),
    ],
}
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?(,[-+]?(\d+\.?\d*|\.\d+))?", re.IGNORECASE)

_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}
_ORDER = ("Options", *GROUPS)


class GroupedCommand(TyperCommand):
    """A command whose help has its options in groups, and that knows what people mean by other names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, group by group; those of the command itself first."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                is_argument = parameter.param_type_name == "argument"
                group = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
                groups.setdefault(group, []).append(record)
        for group in sorted(groups, key=lambda group: _ORDER.index(group) if group in _ORDER else -1):
            with formatter.section(group):
                formatter.write_dl(groups[group])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line; an option that is unknown is refused with the one that is meant."""
        several = {flag for parameter in self.params if _is_numeric(parameter) for flag in parameter.opts}
        try:
            return super().parse_args(ctx, _split_numbers(args, several))
        except Exception as error:
            name = getattr(error, "option_name", None)
            if type(error).__name__ != "NoSuchOption" or not isinstance(name, str):
                raise
            typed = name.lstrip("-").removeprefix("no-").replace("-", "_")
            known = {flag[2:].replace("-", "_") for p in self.params for flag in p.opts if flag.startswith("--")}
            found = guess_name(typed, known)
            hint = f"; did you mean {option_name(found)}?" if found else f"; see segue {ctx.info_name} --help"
            if "set" in known and typed in RARE:
                hint = f"; it is a setting: --set {typed}=VALUE"
            raise SegueError(f"no such option {name}{hint}") from error


def with_settings(
    *kinds: type[Settings], hidden: Collection[str] = (), unfiled: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Give a command an option for each usual field of the settings, --set for the others, and --config.

    The command takes the values that were given as ``**values``, those of a settings file under those that were typed.
    A setting that the command has as a parameter of its own is left to it.
    Its help leaves out those that are ``hidden``, and of a command that makes frames the ``HIDDEN`` ones. Of its own
    parameters it takes ``images``, ``output`` and ``preset`` from the file where they are not typed; it takes none of
    those that are ``unfiled``.
    """
    known = {name: field for kind in kinds for name, field in fields(kind).items()}
    is_long = MorphSettings in kinds

    def decorate(command: Command) -> Command:
        own = inspect.signature(command).parameters.values()
        named = [parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        made = [
            _option(name, known[name], name in hidden or (is_long and name in HIDDEN))
            for names in GROUPS.values()
            for name in names
            if name in known and name not in RARE and name not in {parameter.name for parameter in named}
        ]
        if is_long:
            made += [inspect.Parameter(name, KEYWORD_ONLY, default=None, annotation=a) for name, a in SOURCES.items()]

        def run(**values: Any) -> None:
            config, words = values.pop("config", None), values.pop("set", None)
            typed = {name: value for name, value in values.items() if name not in explicit and value is not None}
            filed = read_config(config) if config else {}
            filed = {name: value for name, value in filed.items() if name not in unfiled}
            taken = [name for name in filed if name in explicit and (name == "preset" or "images" in explicit)]
            mine = {name: values[name] for name in explicit} | {n: filed[n] for n in taken if values[n] is None}
            chosen = {name: value for name, value in filed.items() if name in known and name not in explicit}
            chosen |= {name: from_text(name, value) for name, value in typed.items()} | _settings_of(words or ())
            if own_options := explicit & chosen.keys():
                raise SegueError(f"--set {own_options.pop()}: this command has an option for it")
            command(**mine, **chosen)

        explicit = {parameter.name for parameter in named}
        hints = typing.get_type_hints(command, include_extras=True)
        parameters = [p.replace(annotation=hints[p.name], kind=KEYWORD_ONLY) for p in named] + made
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def select_given(values: Mapping[str, Any], kind: type[Settings]) -> dict[str, Any]:
    """Those of the given values that belong to one kind of settings."""
    return {name: value for name, value in values.items() if name in fields(kind)}


def mode_of(quiet: bool, as_json: bool = False) -> Literal["live", "json", "quiet"]:
    """How a command shows its progress, by its options."""
    return "json" if as_json else "quiet" if quiet else "live"


def _is_numeric(parameter: Any) -> bool:
    """Whether an option takes all numbers that follow it."""
    return bool(parameter.multiple) and str(parameter.metavar or "").endswith("...")


def _split_numbers(args: Sequence[str], several: Collection[str]) -> list[str]:
    """The words of the command line with --noise 0.3 0.55 as --noise 0.3 --noise 0.55."""
    found: list[str] = []
    flag = ""
    for word in args:
        is_value = bool(found) and found[-1] == flag
        if word in several:
            flag = word
        elif flag and not is_value:
            if NUMBER.fullmatch(word):
                found.append(flag)
            else:
                flag = ""
        found.append(word)
    return found


@contextmanager
def faults_as_lines() -> Iterator[None]:
    """Print faults of a manifest line by line, and end with exit code 2."""
    try:
        yield
    except FaultsError as error:
        print(f"segue: {error}", file=sys.stderr)
        raise typer.Exit(2) from error


def _option(name: str, field: FieldInfo, hidden: bool) -> inspect.Parameter:
    """The parameter of one field; None stands for "not given", so that a preset can fill it in."""
    flag, shape = option_name(name), shape_of(name)
    default = as_text(field.get_default(call_default_factory=True, validated_data={}))
    shown = f"; default {default}" if default not in ("", "off", "0") else ""
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if shape == "flag" else flag,
        help=f"{(field.description or '').rstrip('.')}{shown}.",
        show_default=False,
        hidden=hidden,
        metavar=METAVARS.get(name) or METAVARS.get(shape),
        rich_help_panel=_GROUP_OF[name],
    )
    kinds: Mapping[str, Any] = {"flag": bool, "choice": field.annotation, **dict.fromkeys(SEVERAL, list[str])}
    annotation = Annotated[kinds.get(shape, str) | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _settings_of(words: Sequence[str]) -> dict[str, Any]:
    """The settings of --set NAME=VALUE; of one that takes several, each adds to those before."""
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise SegueError(f"--set takes NAME=VALUE, such as bias=0.1, not '{word}'")
        if name not in ALL:
            raise SegueError(f"unknown setting '{name}'{hint(name, ALL)}")
        found.setdefault(name, []).append(text)
    return {
        name: from_text(name, v if len(v) > 1 and shape_of(name) in SEVERAL else v[-1]) for name, v in found.items()
    }
