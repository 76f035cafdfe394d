"""The settings as options of the command line: names, types, defaults and help all come from ``settings``."""

import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

from segue.errors import SegueError
from segue.settings.kinds import GROUPS, fields, meant, option_name, texts_by_place

__all__ = ["GroupedCommand", "faults_as_lines", "given", "mode_of", "with_settings"]

Command = Callable[..., None]

# The groups of the help, in their order; a setting of the images that ``GROUPS`` does not name is one of the frames'.
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}
_OF_KIND = {"LoadSettings": "Model", "ModelSettings": "Model", "ComputeSettings": "Computing", "FilmSettings": "Film"}
_ORDER = ("Options", *GROUPS, "Film", "Model", "Computing")


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
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            name = getattr(error, "option_name", None)
            if type(error).__name__ != "NoSuchOption" or not isinstance(name, str):
                raise
            known = {flag for parameter in self.params for flag in parameter.opts if flag.startswith("--")}
            found = meant(name.lstrip("-").replace("-", "_"), {flag[2:].replace("-", "_") for flag in known})
            hint = f"; did you mean {option_name(found)}?" if found else f"; see segue {ctx.info_name} --help"
            raise SegueError(f"no such option {name}{hint}") from error


def with_settings(*kinds: type[Any], hidden: Collection[str] = ()) -> Callable[[Command], Command]:
    """Give a command an option for each field of the settings; it receives those that were given as keywords.

    The command takes them as ``**values``; an option that was not given does not appear there. Its help leaves out
    those that are ``hidden``.
    """

    def decorate(command: Command) -> Command:
        own = inspect.signature(command).parameters.values()
        named = [parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        made = [_option(kind, name, field, name in hidden) for kind in kinds for name, field in _own_first(kind)]

        def run(**values: Any) -> None:
            command(**{name: value for name, value in values.items() if name in explicit or value is not None})

        explicit = {parameter.name for parameter in named}
        hints = typing.get_type_hints(command, include_extras=True)
        parameters = [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in named] + made
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def given(values: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Those of the given options that belong to one kind of settings, as its values."""
    return {name: _value(name, value, fields(kind)[name]) for name, value in values.items() if name in fields(kind)}


def mode_of(quiet: bool, as_json: bool = False) -> Literal["live", "json", "quiet"]:
    """How a command shows its progress, by its options."""
    return "json" if as_json else "quiet" if quiet else "live"


@contextmanager
def faults_as_lines() -> Iterator[None]:
    """Print faults of a manifest line by line, and end with exit code 2."""
    try:
        yield
    except SegueError as error:
        if "\n" not in str(error):
            raise
        print(f"segue: {error}", file=sys.stderr)
        raise typer.Exit(2) from error


def _own_first(kind: type[Any]) -> list[tuple[str, FieldInfo]]:
    """The fields of a kind of settings, those of its own before those that it inherits."""
    return sorted(fields(kind).items(), key=lambda item: kind.__mro__.index(_owner(kind, item[0])))


def _owner(kind: type[Any], name: str) -> type[Any]:
    """The class that a field comes from."""
    return next(base for base in reversed(kind.__mro__) if name in getattr(base, "__annotations__", {}))


def _option(kind: type[Any], name: str, field: FieldInfo, hidden: bool) -> inspect.Parameter:
    """The parameter of one field; None stands for "not given", so that a preset can fill it in."""
    flag = option_name(name)
    text = "; ".join(filter(None, [(field.description or "").rstrip("."), _shown_default(field)])) + "."
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if field.annotation is bool else flag,
        help=text,
        show_default=False,
        hidden=hidden,
        rich_help_panel=_GROUP_OF.get(name) or _OF_KIND.get(_owner(kind, name).__name__, "Frames"),
    )
    annotation = Annotated[_typed(field.annotation) | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _typed(annotation: Any) -> Any:
    """The type that the command line parses: a list of texts for texts and mappings, two numbers for a range."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _typed(next(arg for arg in args if arg is not type(None)))
    if origin is Literal:
        return annotation
    if origin is dict or (origin is tuple and args[-1] is Ellipsis):
        return list[float] if origin is tuple and _typed(args[0]) is float else list[str]
    if origin is tuple:
        return tuple[float, float]
    if origin is Annotated:
        return _typed(args[0])
    return annotation


def _shown_default(field: FieldInfo) -> str:
    """The default as a user would type it; nothing for an empty one."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None or default in ((), {}, "", False):
        return ""
    return f"default {_typed_in(default)}"


def _typed_in(value: object) -> str:
    """A value as it is typed on the command line: 0.3 0.55 for a range, 0,0 for a shift."""
    if isinstance(value, tuple):
        one_of_many = value[0] if isinstance(value[0], tuple) else None
        return ",".join(map(_typed_in, one_of_many)) if one_of_many else " ".join(map(_typed_in, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "on" if value is True else str(value)


def _value(name: str, value: Any, field: FieldInfo) -> Any:
    """What the settings take for what was typed."""
    if get_origin(field.annotation) is not dict:
        return value
    return texts_by_place(option_name(name), value)
