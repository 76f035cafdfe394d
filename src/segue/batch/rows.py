"""A manifest becomes rows: for each film its images, settings and place, all checked before anything is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segue.batch.manifest import COLUMNS, Pair, faults_message, pairs_and_faults
from segue.engine.inputs import check_files
from segue.engine.plan import check_plan
from segue.errors import FaultsError, SegueError, hearing
from segue.files import check_apart, file_of
from segue.models.cache import marks_of
from segue.pictures.files import digest_of_source
from segue.pictures.images import shown_size
from segue.run.schema import RUN_FILE
from segue.settings.kinds import (
    LOADED,
    ComputeSettings,
    FilmSettings,
    ModelSettings,
    MorphSettings,
    fields,
    parse_settings,
)
from segue.settings.presets import with_preset
from segue.settings.text import as_json, from_text, rebase_paths

__all__ = ["KINDS", "NOTES", "TABLE", "Row", "check_output", "read_rows", "values_of"]

KINDS = (MorphSettings, ComputeSettings, FilmSettings)
TABLE = "batch.csv"  # what became of the rows, in the output's folder
NOTES = ".batch"  # the folder of the records there; no row's name begins with a dot


@dataclass(frozen=True)
class Row:
    """One film to make; plain values, so that it can be sent to other machines.

    Attributes:
        name: names the row.
        images: the keyframes' files.
        folder: the run folder.
        values: fields of MorphSettings and ComputeSettings.
        film: the film's file; none is written if not given.
        film_values: fields of FilmSettings.
    """

    name: str
    images: tuple[Path, ...]
    folder: Path
    values: Mapping[str, Any]
    film: Path | None = None
    film_values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> MorphSettings:
        """What determines the images, checked."""
        return parse_settings(MorphSettings, _select_kind(self.values, MorphSettings))

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that the film is made of: images, poses, control images."""
        settings = self.settings
        return (*self.images, *map(Path, _poses(settings)), *map(Path, settings.control_image))

    def cache_key(self, model: ModelSettings) -> dict[str, Any]:
        """What the film is made of, as plain values that can be compared."""
        film = self.film and {"ending": self.film.suffix, **as_json(parse_settings(FilmSettings, self.film_values))}
        return {
            "settings": as_json(self.settings),
            "film": film,
            "model": {"name": model.model, **{name: as_json(model)[name] for name in LOADED}},
            "files": [digest_of_source(path) for path in self.inputs],
        }


def read_rows(
    manifest: Path,
    output: Path,
    values: Mapping[str, Any],
    *,
    preset: str,
    ending: str,
    model: str | None = None,
    loras: Sequence[Path] = (),
) -> list[Row]:
    """The rows of a manifest; a row's own settings go before those of the command, which go before the preset's.

    Args:
        manifest: a file or folder as ``segue.batch.manifest`` reads it; further columns are settings by name.
        output: the folder of all run folders and films.
        values: the command's settings, of all kinds.
        preset: values to begin with.
        ending: the films' ending: .mp4, .mov, .webm, .gif or .webp.
        model: the checkpoint that the preset is for; pocket if not given.
        loras: the files of its LoRAs.

    Raises:
        SegueError: anything is wrong; the message lists every fault with its line or row.
    """
    names = {name for kind in KINDS for name in fields(kind)} - set(COLUMNS)
    pairs, faults = pairs_and_faults(manifest, names, one_size=False)
    folder = manifest if manifest.is_dir() else manifest.parent
    shared, marks = rebase_paths(values, Path()), marks_of(model, loras)
    rows = []
    taken = {output.absolute() / TABLE: "the batch's table"}  # what is written where
    for pair in pairs:
        try:
            own = rebase_paths({name: from_text(name, value) for name, value in pair.settings.items()}, folder)
            given = values_of(pair, with_preset(preset, {**shared, **own}, model, marks))
            _check(parse_settings(MorphSettings, _select_kind(given, MorphSettings)), pair)
            parse_settings(ComputeSettings, _select_kind(given, ComputeSettings))
            parse_settings(FilmSettings, _select_kind(given, FilmSettings))
        except SegueError as error:
            faults.append(f"{pair.place} ({pair.name}): {error}")
            continue
        film_values = _select_kind(given, FilmSettings)
        folder_of, film = output.absolute() / pair.name, output.absolute() / f"{pair.name}{ending}"
        for path in (folder_of, film):
            if path in taken:
                faults.append(f"{pair.place} ({pair.name}): {path.name} would also be {taken[path]}; rename it")
                continue
            try:
                check_apart(path, (manifest, file_of(pair.a), file_of(pair.b)))
            except SegueError as error:
                faults.append(f"{pair.place} ({pair.name}): {error}")
        taken |= {folder_of: f"the run folder of {pair.name}", film: f"the film of {pair.name}"}
        rows.append(
            Row(
                name=pair.name,
                images=(pair.a.absolute(), pair.b.absolute()),
                folder=folder_of,
                values={name: value for name, value in given.items() if name not in film_values},
                film=film,
                film_values=film_values,
            )
        )
    if faults:
        raise FaultsError(faults_message(manifest, faults))
    check_apart(output / TABLE, [manifest, *(file_of(file) for row in rows for file in row.inputs)])
    return rows


def check_output(rows: Sequence[Row], output: Path, *, overwrite: bool) -> None:
    """Refuse, before anything is made, to write over files that no batch or film of this place has written.

    Args:
        rows: what is to be made.
        output: the folder of the batch.
        overwrite: films may be replaced.

    Raises:
        SegueError: a table or film is there that is not the batch's own.
    """
    if overwrite:
        return
    if (output / TABLE).exists() and not (output / NOTES).is_dir():
        raise SegueError(
            f"{output / TABLE} exists without the notes of a batch; choose another output, or overwrite it"
        )
    for row in rows:
        ours = (output / NOTES / f"{row.name}.json", row.folder / RUN_FILE)
        if row.film and row.film.exists() and not any(path.exists() for path in ours):
            raise SegueError(f"{row.film} exists and is not a film of a batch; choose another output, or overwrite it")


def values_of(pair: Pair, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the prompts and poses of a pair in their place."""
    values = dict(settings)
    if pair.prompts is not None:
        values["prompt"] = pair.prompts
    if pair.negative_prompt:
        values["negative_prompt"] = pair.negative_prompt
    if pair.pose_a is not None and pair.pose_b is not None:
        values["pose"] = f"{pair.pose_a.absolute()},{pair.pose_b.absolute()}"
    return values


def _check(settings: MorphSettings, pair: Pair) -> None:
    """Raise SegueError if settings do not fit a film of two images, or a file that they name is missing or broken."""
    with hearing():  # warnings are told when the row is made
        check_plan(settings, 2)
        check_files(settings, [shown_size(image) for image in (pair.a, pair.b)])


def _poses(settings: MorphSettings) -> list[str]:
    """The pose files that settings name."""
    return settings.pose.split(",") if _is_files(settings.pose) else []


def _select_kind(values: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Those of the values that are of one kind."""
    return {name: value for name, value in values.items() if name in fields(kind)}


def _is_files(pose: str) -> bool:
    """Whether the setting ``pose`` names files."""
    return pose not in ("auto", "off", "")
