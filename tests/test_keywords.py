"""The keyword arguments that editors complete are the settings, with their types; docs/settings.md lists them.

python tests/test_keywords.py && ruff format src      # writes both anew after settings have changed
"""

import re
from pathlib import Path
from typing import Any

from segue.settings import keywords
from segue.settings import kinds as settings
from segue.settings.kinds import ALL, GROUPS, ComputeSettings, FilmSettings, MorphSettings, fields
from segue.settings.text import as_text, choices_of, shape_of

FILE = Path(keywords.__file__)
PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
WIDER = {  # what the settings' own readers take beside the field's type
    settings._several: {
        "tuple[str, ...]": "str | Sequence[str]",
        "tuple[float, ...]": "float | Sequence[float]",
    },
    settings._range: {"tuple[float, ...]": "float | Sequence[float]"},
    settings._shifts: {"tuple[tuple[float, float], ...]": "tuple[float, float] | Sequence[tuple[float, float]]"},
    settings._name: {"str": "str | PathLike[str]"},
    settings._names: {"tuple[str, ...]": "str | PathLike[str] | Sequence[str | PathLike[str]]"},
}


def type_words(field: Any) -> str:
    """The type of a field as it is written, without its bounds."""
    text = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
    text = str(field.annotation) if "[" in str(field.annotation) else text
    text = re.sub(r"typing\.Annotated\[(\w+), [^\]]*?\)\]\)?\]?", r"\1", text.replace("typing.Literal", "Literal"))
    text = re.sub(r"typing\.Optional\[(.*)\]$", r"\1 | None", text).replace("'", '"')
    for given in field.metadata:
        if (reader := getattr(given, "func", None)) in WIDER:
            return WIDER[reader][text]
    return text.replace("dict[", "Mapping[")


def source() -> str:
    """The module as it should be."""
    parts = []
    for name, kinds, what in (
        ("MorphValues", (MorphSettings, ComputeSettings), "Keyword arguments that make frames"),
        ("FilmValues", (FilmSettings,), "Keyword arguments that make a film of frames"),
    ):
        lines = [f"    {n}: {type_words(field)}" for kind in kinds for n, field in fields(kind).items()]
        of = " and ".join(kind.__name__ for kind in kinds)
        parts.append(
            f'class {name}(TypedDict, total=False):\n    """{what}: the fields of {of}."""\n\n' + "\n".join(lines)
        )
    head = FILE.read_text().split("\n\n\nclass ")[0].rstrip()
    return "\n\n\n".join([head, *parts]) + "\n"


def page() -> str:
    """The page of all settings as it should be."""
    parts = [PAGE.read_text().split("\n## ")[0].rstrip()]
    for group, names in GROUPS.items():
        rows = [f"## {group}", "", "| setting | default | |", "|---|---|---|"]
        for name in names:
            default = as_text(ALL[name].get_default(call_default_factory=True))
            choices = f" ({', '.join(filter(None, choices_of(name)))})" if shape_of(name) == "choice" else ""
            rows.append(f"| `{name}` | {default} | {(ALL[name].description or '').rstrip('.')}{choices} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Without what a formatter changes."""
    return re.sub(r",?\s+|[()]", "", text)


def test_they_are_the_settings() -> None:
    assert plain(FILE.read_text()) == plain(source())
    assert PAGE.read_text() == page()


if __name__ == "__main__":
    FILE.write_text(source())
    PAGE.write_text(page())
