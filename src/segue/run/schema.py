"""The JSON files of a run folder: what each must hold, beside other things, and reading it."""

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, RootModel, StrictInt, ValidationError

from segue.errors import SegueError
from segue.files import read_json
from segue.settings.kinds import FilmSettings, MorphSettings, parse_settings

__all__ = ["FILMS_FILE", "JOURNAL", "RUN_FILE", "SETTINGS_FILE", "films_of", "read_part", "sizes_of"]

RUN_FILE = "run.json"
SETTINGS_FILE = "settings.toml"
FILMS_FILE = "films.json"
JOURNAL = "journal.jsonl"


class _Keyframe(BaseModel):
    source: str
    pixels: str


class _Model(BaseModel):
    name: str
    fingerprint: str


class _Run(BaseModel):
    settings: dict[str, Any]
    size: Annotated[list[StrictInt], Field(min_length=2, max_length=2)]
    keyframes: list[_Keyframe]
    model: _Model
    batch_size: StrictInt
    grown: list[StrictInt] = []
    ground: str = "white"


class _Frame(BaseModel):
    place: Annotated[str, AfterValidator(Fraction)]
    name: str
    level: StrictInt
    candidate: StrictInt = 0


class _State(BaseModel):
    frames: list[_Frame]


KINDS: Mapping[str, type[BaseModel]] = {
    RUN_FILE: _Run,
    "state.json": _State,
    FILMS_FILE: RootModel[dict[str, dict[str, Any]]],
}


def read_part(folder: Path, name: str) -> dict[str, Any] | None:
    """One of the JSON files of a run folder; None if it is missing; raises SegueError if it is damaged."""
    found = read_json(folder / name)
    if found is not None and name in KINDS:
        try:
            KINDS[name].model_validate(found)
        except ValidationError as error:
            raise SegueError(f"{folder / name} is damaged: {_fault(error)}") from error
    return found


def films_of(folder: Path) -> dict[Path, FilmSettings]:
    """The films that were written of the run in a folder, with their settings; none of one that is not finished."""
    here, films = folder.absolute(), read_part(folder, FILMS_FILE) or {}
    return {Path(os.path.normpath(here / name)): parse_settings(FilmSettings, values) for name, values in films.items()}


def _fault(error: ValidationError) -> str:
    """What the faults of a file are, and where."""
    faults = [("/".join(map(str, fault["loc"])), fault) for fault in error.errors(include_url=False)]
    if missing := [place for place, fault in faults if fault["type"] == "missing"]:
        return f"it lacks {', '.join(missing)}"
    place, fault = faults[0]
    return f"{place}: {fault['msg'].lower()}, not {fault['input']!r}"


def sizes_of(settings: MorphSettings, grown: Sequence[int]) -> list[int]:
    """The frames of one gap at each stage of a film: those that it grew through, then its own, then refined."""
    own = (settings.num_frames, settings.steps + 1)
    return [*grown, *sorted({size for size in own if size > max(grown, default=0)})]
