"""What the command ``segue morph`` does: check everything that can be checked, make the film, write it."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from segue.dialogue import Progress
from segue.display import Mode, showing
from segue.errors import SegueError, unheard, warn
from segue.files import check_apart
from segue.film import check_film, contact_sheet
from segue.frames import network_kept
from segue.history import Edit
from segue.interpolate import Interpolator
from segue.morph import Morph, films_of
from segue.options import given
from segue.parts import RUN_FILE, read_part
from segue.pick import Asked, terminal_chooser
from segue.pictures import load
from segue.run import RunFolder
from segue.settings import (
    ComputeSettings,
    FilmSettings,
    InversionSettings,
    LoadSettings,
    ModelSettings,
    MorphSettings,
    checked,
    updated,
    with_preset,
    without_effect,
)
from segue.threads import limit_threads
from segue.tree import FrameKey

__all__ = ["fit_words", "make_again", "make_film", "run_folder", "step_back"]


def make_film(
    images: Sequence[Path],
    output: Path,
    values: Mapping[str, Any],
    *,
    model: ModelSettings,
    preset: str,
    overwrite: bool,
    pick: bool,
    mode: Mode,
) -> None:
    """Make a film of images and write it; what is made already is not made again."""
    images_settings, film = _checked(values, preset, model.model)
    computing = given(values, ComputeSettings)
    checked(ComputeSettings, computing)
    _check(images, output, str(images_settings["settings"].background))
    folder = run_folder(output)
    if not overwrite:
        _check_own(output, folder)
    begun, asked = _begun(folder, overwrite), Asked(terminal_chooser(folder))
    with showing(_asking(mode, pick)) as show:
        segue = _loaded(begun, model)
        if film.timing == "even":
            network_kept(images_settings["settings"].look)  # an error here, not when the frames are made
        _tell_idle(images_settings, film, values)
        morph = segue(
            *images,
            output=folder,
            overwrite=overwrite,
            preset=preset,
            callback=_previewing(show, folder) if computing.get("preview") else show,
            choose=asked if pick else None,
            **images_settings["given"],
            **computing,
        )
        _write(morph, output, film, show)
        if pick and not asked.count and not all(morph.keyframe_flags):
            warn("all frames were chosen before, so nobody was asked; segue redo --frame N --pick asks about one again")
    _done(morph, output, mode)


def fit_words(
    images: Sequence[Path],
    output: Path,
    values: Mapping[str, Any],
    *,
    model: ModelSettings,
    preset: str,
    mode: Mode,
) -> None:
    """Fit the words of a film to its keyframes, and make no frame."""
    images_settings, film = _checked(values, preset, model.model)
    _check(images, output, str(images_settings["settings"].background))
    folder = run_folder(output)
    with showing(mode) as show:
        segue = _loaded(read_part(folder, RUN_FILE), model)
        _tell_idle(images_settings, film, values)
        segue.invert(*images, output=folder, preset=preset, callback=show, **images_settings["given"])
    if mode == "json":
        print(json.dumps({"stage": "done", "run": str(folder)}))
    elif mode != "quiet":
        print(f"{folder}: the words are fitted; segue morph with the same settings makes the film")


def make_again(
    output: Path,
    frame: str,
    edit: Edit | None,
    *,
    candidate: int | None,
    pick: bool,
    loading: LoadSettings,
    mode: Mode,
) -> None:
    """Make one frame and its descendants again, and write the film anew."""
    folder = _existing(output)
    key = frame_named(folder, frame)
    if key.is_keyframe:
        raise SegueError(f"frame {frame} is a keyframe, which is shown as it was given")
    films = _films(folder, output)
    with showing(_asking(mode, pick)) as show:
        if edit is not None and edit != Edit():
            edit = _added(folder, key, edit)
        segue = _interpolator_of(folder, loading)
        chooser = terminal_chooser(folder) if pick else None
        with _telling(folder):
            morph = segue.redo(folder, key, edit, candidate=candidate, callback=show, choose=chooser)
        written = _rewrite(morph, films, output, show)
    _done(morph, written, mode)


def _added(folder: Path, key: FrameKey, edit: Edit) -> Edit:
    """An edit, with all else that the frame has of its own."""
    with RunFolder(folder) as run:
        own = run.history.edit(key)
    kept = {name: value for name, value in asdict(own).items() if value is not None and getattr(edit, name) is None}
    if "pose" in kept:
        kept["pose"] = folder.absolute() / str(kept["pose"])
    if kept:
        warn(f"frame {key} keeps its own {' and '.join(kept)}; segue redo --reset gives up what it has of its own")
    return replace(edit, **kept)


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Say of a redo that is interrupted, or fails, what becomes of it, if it was begun."""
    journal = folder / "journal.jsonl"
    before = journal.stat().st_size if journal.exists() else 0
    text = "the frame is made by the film's segue morph command, or by the next redo; segue undo takes it back"

    def is_noted() -> bool:
        return journal.exists() and journal.stat().st_size > before

    try:
        yield
    except KeyboardInterrupt:
        if is_noted():
            print(f"segue: {text}", file=sys.stderr)
        raise
    except SegueError as error:
        raise SegueError(f"{error}; {text}" if is_noted() else str(error)) from error


def step_back(output: Path, *, restore: bool, loading: LoadSettings, mode: Mode) -> None:
    """Undo the last redo, or take the last undo back, and write the film anew."""
    folder = _existing(output)
    films = _films(folder, output)
    with showing(mode) as show:
        segue = _interpolator_of(folder, loading)
        morph = (segue.restore if restore else segue.undo)(folder, callback=show)
        written = _rewrite(morph, films, output, show)
    _done(morph, written, mode)


def run_folder(output: Path) -> Path:
    """The run folder of a film: morph/ beside morph.mp4; frames in a folder have theirs beside it, named .run."""
    if output.name in ("", ".."):  # a folder named by the way to it
        output = output.resolve()
    return output.with_suffix("") if output.suffix else output.with_name(f"{output.name}.run")


def frame_named(folder: Path, text: str) -> FrameKey:
    """The frame that a user names: by its number in the film, or by its place as 0.5 or 1/2."""
    if not (folder / "state.json").exists():
        raise SegueError(f"{folder} is not finished; continue it first")
    places = [key.place for key in Morph(folder).keys]
    try:
        if text.isdecimal() and int(text) < len(places):
            return FrameKey.at(places[int(text)])
        if not text.isdecimal() and Fraction(text) in places:
            return FrameKey.at(Fraction(text))
    except (ValueError, ZeroDivisionError):
        pass
    raise SegueError(
        f"{folder} has no frame {text}; frames are numbered 0 to {len(places) - 1}, or named by place as 1/2"
    )


def _checked(values: Mapping[str, Any], preset: str, model: str | None) -> tuple[dict[str, Any], FilmSettings]:
    """The settings of the images and of the film, before anything is loaded."""
    images = given(values, MorphSettings) | given(values, InversionSettings)
    settings = checked(MorphSettings, with_preset(preset, images, model))
    return {"given": images, "settings": settings}, checked(FilmSettings, given(values, FilmSettings))


def _tell_idle(images: Mapping[str, Any], film: FilmSettings, values: Mapping[str, Any]) -> None:
    """Warn of options that were typed and change nothing."""
    typed = given(values, FilmSettings)
    for line in [*without_effect(images["settings"], images["given"]), *without_effect(film, typed)]:
        warn(line)


def _check(images: Sequence[Path], output: Path, background: str) -> None:
    """Name what is wrong with the output or an image before the model is loaded and before anything is written."""
    if len(images) < 2:
        raise SegueError(f"a film needs two images or more, not {len(images)}")
    check_film(output)
    for place in (output, run_folder(output)):
        check_apart(place, images)
    with unheard():
        for image in images:
            load(image, background=background)


def _check_own(output: Path, folder: Path) -> None:
    """SegueError where a film would replace a file, or a folder with frames, that its run did not write."""
    is_empty = output.is_dir() and not any(output.iterdir())
    if output.exists() and not (is_empty or _is_of(output, folder)):
        raise SegueError(f"{output} is there, and no film of {folder}; choose another output, or overwrite it")


def _is_of(output: Path, folder: Path) -> bool:
    """Whether a file is a film of a run: one that it wrote, or where what it wrote is not known any more, any."""
    if not (folder / RUN_FILE).exists():
        return False
    return not (films := films_of(folder)) or Path(os.path.normpath(output.absolute())) in films


def _begun(folder: Path, overwrite: bool) -> dict[str, Any] | None:
    """The run file of the run that is there; None where there is none, or a damaged one that is overwritten."""
    try:
        return read_part(folder, RUN_FILE)
    except SegueError as error:
        if overwrite:
            return None
        raise SegueError(f"{error}; choose another output, or overwrite it") from error


def _write(morph: Morph, output: Path, film: FilmSettings, show: Any) -> None:
    """Write the film and its contact sheet, and remember the film's settings for a redo."""
    show(Progress("film", total=len(morph)))
    morph.save(output, film)
    morph.contact_sheet(morph.path / "contact-sheet.png")
    morph.remember(output, film)


def _rewrite(morph: Morph, films: Mapping[Path, FilmSettings], output: Path, show: Any) -> Path:
    """Write films of a run anew; what to call the outcome: what was named, or its first film for a run folder."""
    for path, film in films.items():
        _write(morph, path, film, show)
    return output if output.absolute() != morph.path else next(iter(films), output)


def _films(folder: Path, output: Path) -> dict[Path, FilmSettings]:
    """The films to write anew after a change: those that were written of a run, and the one that is named."""
    known, here = Morph(folder).films(), Path(os.path.normpath(folder.absolute()))
    films = {path: film for path, film in known.items() if run_folder(path) == here}  # a copy leaves the original's
    if output != folder:
        if not known:
            raise SegueError(f"no film was ever written of {folder}; use segue morph, or name the run folder")
        films.setdefault(output.absolute(), list(known.values())[-1])
    for path in films:
        check_film(path)  # before anything is made or noted
    return films


def _existing(output: Path) -> Path:
    """The run folder that a film or a run folder stands for."""
    for folder in (output, run_folder(output)):
        try:
            if (folder / RUN_FILE).exists():
                return folder
        except OSError as error:
            raise SegueError(f"{folder} cannot be read: {error.strerror}") from error
    raise SegueError(f"{output} is no film and no run folder that segue made")


def _loaded(run: Mapping[str, Any] | None, model: ModelSettings) -> Interpolator:
    """The model; in the precision that a run was begun with, where there is one, unless another is asked for."""
    begun = run["model"].get("dtype") if run else None
    limit_threads()
    return Interpolator.loaded(updated(model, {"dtype": model.dtype or begun}))


def _interpolator_of(folder: Path, loading: LoadSettings) -> Interpolator:
    """The model that a run was made with, loaded as asked."""
    data = read_part(folder, RUN_FILE)
    if data is None:
        raise SegueError(f"{folder} holds no run any more")
    model = data["model"]
    named = {"model": model["name"], "controlnet": model.get("controlnet")}
    return _loaded(data, checked(ModelSettings, {**asdict(loading), **named}))


def _previewing(show: Any, folder: Path) -> Any:
    """Also write a contact sheet of the finished frames whenever a level is complete."""
    level = 0

    def preview(progress: Progress) -> None:
        nonlocal level
        if progress.level > level:
            level = progress.level
            if level > 1:
                contact_sheet(sorted((folder / "frames").glob("*.png")), folder / "contact-sheet.png")
        show(progress)

    return preview


def _asking(mode: Mode, pick: bool) -> Mode:
    """How progress is shown beside questions: a live bar would draw over them."""
    return "plain" if pick and mode == "live" else mode


def _done(morph: Morph, output: Path, mode: Mode) -> None:
    """Say where the film is."""
    run = morph.path if output.is_absolute() else os.path.relpath(morph.path)
    if mode == "json":
        print(json.dumps({"stage": "done", "film": str(output), "run": str(run), "frames": len(morph)}))
    elif mode != "quiet":
        print(f"{output}: {len(morph)} frames; run folder {run}")
