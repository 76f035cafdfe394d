"""What a command was asked for, with everything checked that can be before torch is imported.

The command line builds a request, which takes a fraction of a second, and only then imports what makes films.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from segue.cli.options import select_given
from segue.errors import SegueError
from segue.files import check_apart, file_of
from segue.film.outputs import check_film, run_folder
from segue.method.tree import FrameKey
from segue.models.cache import marks_of
from segue.models.checkpoints import check_controlnet, check_folder, resolve_adapter, resolve_name
from segue.models.header import check_additions, check_file
from segue.run.schema import RUN_FILE, films_of, read_part
from segue.settings.kinds import (
    ComputeSettings,
    FilmSettings,
    LoadSettings,
    ModelSettings,
    MorphSettings,
    parse_settings,
)
from segue.settings.presets import with_preset
from segue.settings.text import parse_lora

__all__ = [
    "FilmRequest",
    "RunRequest",
    "check_files_exist",
    "check_manifest",
    "check_model",
    "film_request",
    "parse_frame",
    "run_request",
]

DEVICE = re.compile(r"(cpu|cuda|mps|xpu|npu|hpu|meta)(:\d+)?")


@dataclass(frozen=True)
class FilmRequest:
    """A film to make.

    Attributes:
        images: the keyframes' files.
        output: the film.
        folder: its run folder.
        given: the values that were typed, of ``MorphSettings``.
        settings: these over those of the preset, checked.
        computing: the values that were typed, of ``ComputeSettings``.
        film: how the frames become a film.
        film_given: the values that were typed of it.
        model: the checkpoint.
        preset: the values that it began with.
        overwrite: whether another run, and files of others, are replaced.
        begun: the run file of the run that is there; None if there is none, or a damaged one that is overwritten.
    """

    images: Sequence[Path]
    output: Path
    folder: Path
    given: Mapping[str, Any]
    settings: MorphSettings
    computing: Mapping[str, Any]
    film: FilmSettings
    film_given: Mapping[str, Any]
    model: ModelSettings
    preset: str
    overwrite: bool
    begun: Mapping[str, Any] | None


@dataclass(frozen=True)
class RunRequest:
    """A change to the film of a run.

    Attributes:
        output: what was named: a film or a run folder.
        folder: the run folder.
        films: the films to write anew, with their settings.
        loading: how the run's model is loaded.
    """

    output: Path
    folder: Path
    films: Mapping[Path, FilmSettings]
    loading: LoadSettings


def film_request(
    named: Sequence[str | Path] | None,
    film_named: str | Path | None,
    values: Mapping[str, Any],
    *,
    preset: str | None,
    overwrite: bool = False,
) -> FilmRequest:
    """Check what a film is asked to be made of, and where to.

    Raises:
        SegueError: a setting, an image, another file, the output or the model is wrong.
    """
    images, preset = [Path(image) for image in named or ()], preset or "balanced"
    model = parse_settings(ModelSettings, select_given(values, ModelSettings))
    own = select_given(values, MorphSettings)
    loras = [parse_lora(text)[0] for text in model.lora]
    settings = parse_settings(MorphSettings, with_preset(preset, own, model.model, marks_of(model.model, loras)))
    film_given, computing = select_given(values, FilmSettings), select_given(values, ComputeSettings)
    film = parse_settings(FilmSettings, film_given)
    parse_settings(ComputeSettings, computing)
    if len(images) < 2:
        raise SegueError(f"a film needs at least two images, not {len(images)}")
    if film_named is None:
        raise SegueError("no output: --output names the film")
    output = Path(film_named)
    check_film(output)
    folder = run_folder(output)
    for place in (output, folder):
        check_apart(place, map(file_of, images))
    check_model(model)
    if settings.image_prompt and model.image_adapter is None:
        raise SegueError("--image-prompt needs an IP-Adapter; name one with --image-adapter")
    check_files_exist(images)
    if not overwrite:
        _check_own(output, folder)
    begun = _read_begun(folder, overwrite)

    from segue.engine.inputs import check_inputs  # NumPy and Pillow: what is wrong above is refused without them

    check_inputs(images, settings)
    return FilmRequest(
        images, output, folder, own, settings, computing, film, film_given, model, preset, overwrite, begun
    )


def run_request(output: Path, loading: LoadSettings) -> RunRequest:
    """Find the run of a film, or of a run folder, and check that its films can be written anew.

    Raises:
        SegueError: it is missing, or it cannot be changed.
    """
    _check_device(loading.device)
    folder = _run_folder_of(output)
    if read_part(folder, "state.json") is None:
        raise SegueError(f"{folder} is not finished; continue it first")
    return RunRequest(output, folder, _films(folder, output), loading)


def parse_frame(folder: Path, text: str) -> FrameKey:
    """The frame that a user names, no keyframe: by its number in the film, or by its place as 0.5 or 1/2."""
    state, run = read_part(folder, "state.json") or {}, read_part(folder, RUN_FILE) or {}
    places = [Fraction(frame["place"]) for frame in state.get("frames", [])]
    if run.get("settings", {}).get("loop"):
        places.pop()
    key = None
    try:
        if text.isdecimal() and int(text) < len(places):
            key = FrameKey.at(places[int(text)])
        if not text.isdecimal() and Fraction(text) in places:
            key = FrameKey.at(Fraction(text))
    except (ValueError, ZeroDivisionError):
        pass
    if key is None:
        raise SegueError(
            f"{folder} has no frame {text}; frames are numbered 0 to {len(places) - 1}, or named by place, such as 1/2"
        )
    if key.is_keyframe:
        raise SegueError(f"frame {text} is a keyframe, which is shown as it was given")
    return key


def check_files_exist(files: Sequence[Path]) -> None:
    """Raise SegueError if a file is missing."""
    for file in map(file_of, files):
        if not file.exists():
            raise SegueError(f"{file}: no such file")


def check_manifest(manifest: Path) -> None:
    """Raise SegueError if a manifest is missing."""
    if not manifest.exists():
        raise SegueError(f"{manifest} cannot be read as a manifest: no such file")


def check_model(model: ModelSettings) -> None:
    """Raise SegueError if a checkpoint is unknown, or a folder or file is something else; the hub is not asked."""
    for name, kind, check in ((model.model, "model", check_folder), (model.controlnet, "controlnet", check_controlnet)):
        if name is not None and name != "pocket" and isinstance(found := resolve_name(name, kind=kind), Path):
            (check_file if found.is_file() else check)(found, name)
    if model.image_adapter is not None:
        resolve_adapter(model.image_adapter)
    loras, embeddings = [parse_lora(text)[0] for text in model.lora], [Path(name) for name in model.embedding]
    check_additions(None if model.vae is None else Path(model.vae), loras, embeddings)
    _check_device(model.device)


def _check_device(device: str | None) -> None:
    """Raise SegueError for a name that no device has; whether it is there, torch knows."""
    if device is not None and not DEVICE.fullmatch(device):
        raise SegueError(f"device '{device}' is not available; use cpu, cuda, cuda:1 or mps")


def _check_own(output: Path, folder: Path) -> None:
    """Raise SegueError if a film would replace a file, or a folder with frames, that its run did not write."""
    is_empty = output.is_dir() and not any(output.iterdir())
    if output.exists() and not (is_empty or _is_film_of(output, folder)):
        raise SegueError(f"{output} exists and is not a film of {folder}; choose another output, or overwrite it")


def _is_film_of(output: Path, folder: Path) -> bool:
    """Whether a file is a film of a run: one that it wrote, or where what it wrote is not known any more, any."""
    if not (folder / RUN_FILE).exists():
        return False
    return not (films := films_of(folder)) or Path(os.path.normpath(output.absolute())) in films


def _read_begun(folder: Path, overwrite: bool) -> dict[str, Any] | None:
    """The run file of the run that is there; None if there is none, or a damaged one that is overwritten."""
    try:
        return read_part(folder, RUN_FILE)
    except SegueError as error:
        if overwrite:
            return None
        raise SegueError(f"{error}; choose another output, or overwrite it") from error


def _films(folder: Path, output: Path) -> dict[Path, FilmSettings]:
    """The films to write anew after a change: those that were written of a run, and the one that is named."""
    known, here = films_of(folder), Path(os.path.normpath(folder.absolute()))
    films = {path: film for path, film in known.items() if run_folder(path) == here}  # a copy leaves the original's
    if output != folder:
        if not known:
            raise SegueError(f"no film was written from {folder}; use segue morph, or name the run folder")
        films.setdefault(output.absolute(), list(known.values())[-1])
    for path in films:
        check_film(path)  # before anything is made or noted
    return films


def _run_folder_of(output: Path) -> Path:
    """The run folder that a film or a run folder stands for."""
    for folder in (output, run_folder(output)):
        try:
            if (folder / RUN_FILE).exists():
                return folder
        except OSError as error:
            raise SegueError(f"{folder} cannot be read: {error.strerror}") from error
    raise SegueError(f"{output} is not a film or run folder made by segue")
