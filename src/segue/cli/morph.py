"""What the commands ``morph``, ``invert``, ``remake``, ``undo`` and ``redo`` do with a request that was checked."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segue.cli.display import Mode, show_progress
from segue.cli.pick import Asked, terminal_chooser
from segue.cli.request import FilmRequest, RunRequest
from segue.engine.dialogue import Progress
from segue.engine.interpolator import Interpolator
from segue.errors import SegueError, warn
from segue.film.morph import Morph
from segue.machine import limit_threads
from segue.method.tree import FrameKey
from segue.models.features.networks import reuse_network
from segue.run.folder import RunFolder
from segue.run.journal import Edit, events_of
from segue.run.schema import JOURNAL, RUN_FILE, read_part
from segue.settings.kinds import LOADED, FilmSettings, ModelSettings, parse_settings, update_settings
from segue.settings.presets import list_ineffective

__all__ = ["fit_words", "make_again", "make_film", "step"]


def make_film(asked: FilmRequest, *, pick: bool, mode: Mode) -> None:
    """Make a film of images and write it; what is made already is not made again."""
    folder, film = asked.folder, asked.film
    chooser = Asked(terminal_chooser(folder))
    with show_progress(_question_mode(mode, pick)) as show:
        interpolator = _load_model(asked.begun, asked.model)
        if film.even_network:
            reuse_network(film.even_network)  # an error here, not when the frames are made
        _tell_idle(asked)
        morph = interpolator(
            *asked.images,
            output=folder,
            overwrite=asked.overwrite,
            preset=asked.preset,
            callback=show,
            choose=chooser if pick else None,
            **asked.given,
            **asked.computing,
        )
        _write(morph, asked.output, film, show)
        if pick and not chooser.count and not all(morph.keyframe_flags):
            text = "all frames were already chosen, so there was nothing to pick"
            warn(f"{text}; segue remake --frame N --pick asks about one again")
    _report_film(morph, asked.output, mode)


def fit_words(asked: FilmRequest, *, mode: Mode) -> None:
    """Fit the words of a film to its keyframes, and make no frame."""
    folder = asked.folder
    with show_progress(mode) as show:
        interpolator = _load_model(asked.begun, asked.model)
        _tell_idle(asked)
        interpolator.invert(*asked.images, output=folder, preset=asked.preset, callback=show, **asked.given)
    if mode == "json":
        print(json.dumps({"stage": "done", "run": str(folder)}))
    elif mode != "quiet":
        print(f"{folder}: the words are fitted; segue morph with the same settings makes the film")


def make_again(
    asked: RunRequest, key: FrameKey, edit: Edit | None, *, candidate: int | None, pick: bool, mode: Mode
) -> None:
    """Make one frame and its descendants again, and write the film anew."""
    folder = asked.folder
    with show_progress(_question_mode(mode, pick)) as show:
        if edit is not None and edit != Edit():
            edit = _extend_edit(folder, key, edit)
        interpolator = _interpolator_of(asked)
        chooser = terminal_chooser(folder) if pick else None
        with _telling(folder):
            morph = interpolator.remake(folder, key, edit, candidate=candidate, callback=show, choose=chooser)
        written = _rewrite(morph, asked, show)
    _report_film(morph, written, mode)


def step(asked: RunRequest, *, redo: bool, mode: Mode) -> None:
    """Undo the last remake, or take the last undo back, and write the film anew."""
    with show_progress(mode) as show:
        interpolator = _interpolator_of(asked)
        morph = (interpolator.redo if redo else interpolator.undo)(asked.folder, callback=show)
        written = _rewrite(morph, asked, show)
    _report_film(morph, written, mode)


def _extend_edit(folder: Path, key: FrameKey, edit: Edit) -> Edit:
    """An edit, with all else that the frame has of its own."""
    with RunFolder(folder) as run:
        own = run.history.edit(key)
    kept = {name: value for name, value in asdict(own).items() if value is not None and getattr(edit, name) is None}
    kept |= {name: folder.absolute() / str(kept[name]) for name in ("pose", "image") if name in kept}
    if kept:
        warn(f"frame {key} keeps its own {' and '.join(kept)}; segue remake --reset removes them")
    return replace(edit, **kept)


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Say of a remake that is interrupted or fails what becomes of it, once the journal has it."""
    text = "the frame is made by the film's segue morph command, or by the next remake; segue undo takes it back"
    before = events_of(folder / JOURNAL)
    try:
        yield
    except KeyboardInterrupt:
        if events_of(folder / JOURNAL) != before:
            print(f"segue: {text}", file=sys.stderr)
        raise
    except SegueError as error:
        raise (SegueError(f"{error}; {text}") if events_of(folder / JOURNAL) != before else error) from error


def _tell_idle(asked: FilmRequest) -> None:
    """Warn of options that were typed and change nothing."""
    for line in list_ineffective(asked.settings, asked.given):
        warn(line)


def _write(morph: Morph, output: Path, film: FilmSettings, show: Any) -> None:
    """Write the film and its contact sheet, and remember the film's settings for a remake."""
    show(Progress("film", total=len(morph)))
    morph.save(output, film)
    morph.contact_sheet(morph.path / "contact-sheet.png")
    morph.remember(output, film)


def _rewrite(morph: Morph, asked: RunRequest, show: Any) -> Path:
    """Write films of a run anew; what to call the outcome: what was named, or its first film for a run folder."""
    for path, film in asked.films.items():
        _write(morph, path, film, show)
    return asked.output if asked.output.absolute() != morph.path else next(iter(asked.films), asked.output)


def _load_model(run: Mapping[str, Any] | None, model: ModelSettings) -> Interpolator:
    """The model; in the precision that a run was begun with, if there is one, unless another is asked for."""
    begun = run["model"].get("dtype") if run else None
    limit_threads()
    return Interpolator.from_settings(update_settings(model, {"dtype": model.dtype or begun}))


def _interpolator_of(asked: RunRequest) -> Interpolator:
    """The model that a run was made with, loaded as asked."""
    data = read_part(asked.folder, RUN_FILE)
    if data is None:
        raise SegueError(f"{asked.folder} no longer holds a run")
    model = data["model"]
    own = {setting: model[setting] for setting in LOADED if setting != "dtype" and model.get(setting)}
    named = {"model": model["name"], **own}
    return _load_model(data, parse_settings(ModelSettings, {**dict(asked.loading), **named}))


def _question_mode(mode: Mode, pick: bool) -> Mode:
    """How progress is shown beside questions: a live bar would draw over them."""
    return "plain" if pick and mode == "live" else mode


def _report_film(morph: Morph, output: Path, mode: Mode) -> None:
    """Say where the film is."""
    run = morph.path if output.is_absolute() else os.path.relpath(morph.path)
    if mode == "json":
        print(json.dumps({"stage": "done", "film": str(output), "run": str(run), "frames": len(morph)}))
    elif mode != "quiet":
        print(f"{output}: {len(morph)} frames; run folder {run}")
