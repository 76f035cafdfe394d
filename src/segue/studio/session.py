"""A visitor of the studio: the pictures given, the films begun, and everything that can be done with them.

What a visitor has lies in a folder of their own: ``studio.json`` and ``keyframes/`` are the studio's, ``films/`` has a
run folder and a film for each, as the command line would write them. Nothing else is kept, so a reload or a new server
finds everything there.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from segue.engine.dialogue import Progress
from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.files import read_json, write_bytes, write_json
from segue.film.morph import Morph
from segue.method.tree import FrameKey, grows
from segue.run.folder import RunFolder
from segue.run.schema import RUN_FILE, films_of
from segue.settings.kinds import (
    ComputeSettings,
    FilmSettings,
    MorphSettings,
    as_json,
    checked,
    differences,
    model_differences,
    preset_settings,
    with_preset,
)
from segue.studio import pose_editor
from segue.studio.change import edit_of, frame_at
from segue.studio.controls import check_public, command_line, controls, read, remake_line, shown
from segue.studio.download import written
from segue.studio.jobs import Job, Queue, Report
from segue.studio.keyframes import MOST, Keyframes
from segue.studio.tables import NEW, Table, Tables
from segue.studio.timeline import RunView, written_at

__all__ = ["Session", "Studio"]

KEEP = ComputeSettings(keep_candidates=True)
QUICKEST = "draft"


@dataclass
class Studio:
    """What all visitors share.

    Attributes:
        root: the folder of the visitors' folders.
        load: gives the model; it is loaded when the first film is made.
        describe: writes a prompt for a picture, by the captioner that is named or else its own.
        opened: a run to open for everybody, where one was named.
        examples: pictures to begin with, by name.
        queue: the one queue.
        public: strangers see the page; its settings name no files and no models.
        model_name: the checkpoint, where it is not pocket.
    """

    root: Path
    load: Callable[[], Interpolator]
    describe: Callable[[Image.Image, str | None], str]
    opened: Path | None = None
    examples: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    queue: Queue = field(default_factory=Queue)
    public: bool = False
    model_name: str | None = None
    _model: Interpolator | None = None
    _sessions: dict[str, "Session"] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _loading: threading.Lock = field(default_factory=threading.Lock)  # so that the page answers meanwhile

    def session(self, visitor: str) -> "Session":
        """The visitor's session; read from their folder where it was there before."""
        with self._lock:
            name = "opened" if self.opened else visitor
            if name not in self._sessions:
                folder = self.opened.with_name(f"{self.opened.name}.studio") if self.opened else self.root / visitor
                self._sessions[name] = Session(self, name, folder)
            return self._sessions[name]

    @property
    def model(self) -> Interpolator:
        """The model, loaded at the first use."""
        with self._loading:
            if self._model is None:
                self._model = self.load()
            return self._model

    @property
    def has_control(self) -> bool | None:
        """Whether the model takes poses; None before it is loaded."""
        return None if self._model is None else bool(self._model.backbone.controlnets)


class Session:
    """One visitor's work."""

    def __init__(self, studio: Studio, name: str, folder: Path) -> None:
        self.studio, self.name, self.folder = studio, name, folder
        self.lock = threading.RLock()
        self.job: Job | None = None
        self.data: dict[str, Any] = {
            "keyframes": [],
            "preset": "balanced",
            "controls": {},  # what stands in the page's controls, by setting; in the others, what the preset says
            "film_controls": {},  # and in those of the film, where it is only typed
            "film": {},  # the settings of the film that was last on the page
            "run": None,
            "begun": {},  # the keyframes that each film was begun with
            "tables": {},
            "cleared": [],
        }
        self.data |= _stored(folder / "studio.json")
        self.tables = Tables(folder / "keyframes", self.data, self.lock, self.save, self._is_film, self._made)
        if self.run and not self.data["controls"]:
            with suppress(SegueError):
                self.data["controls"] = self._made(self.tables.name)["controls"]
        opened = studio.opened
        if opened and (opened / RUN_FILE).exists() and self.tables.name != opened.name:
            self.open(opened.name)

    # The table.

    @property
    def keyframes(self) -> Keyframes:
        """The keyframes on the table."""
        return self.tables.keyframes

    def check(self, film: str | None) -> None:
        """Refuse what is meant for another film than the one on the table, which a second tab may have laid there.

        Raises:
            SegueError: ``film`` (None for whatever is there) is not on the table.
        """
        if film is not None and film != self.tables.name:
            here, there = (name or "a new film" for name in (self.tables.name, film))
            raise SegueError(f"{here} is on the table now, not {there}; show {there} again to change it")

    def describe(self, number: str, film: str | None = None) -> str:
        """Write a prompt for a keyframe by looking at it."""
        film = self.tables.name if film is None else film
        keyframes = self.tables.keyframes_of(film)
        with Image.open(keyframes.path(keyframes[number])) as picture:
            prompt = self.studio.describe(picture.convert("RGB"), self._captioner())
        if not prompt:
            raise SegueError("nothing was found to say about this picture; write the prompt yourself")
        with self.lock:  # the film may be on the page now, or not any more
            self.tables.keyframes_of(film).word(number, prompt)
        return prompt

    def example(self, name: str) -> None:
        """Begin anew with an example's pictures and the quickest settings."""
        pictures = self.studio.examples.get(name)
        if not pictures:
            raise SegueError(f"there is no example {name}")
        with self.lock:
            self.new()
            self.clear()
            for picture in pictures:
                self.keyframes.add(picture, picture.name)
            settings = checked(MorphSettings, preset_settings(QUICKEST, self.studio.model_name))
            self.data |= {"preset": QUICKEST, "controls": _as_controls(settings), "film_controls": {}}
            self.save()

    def new(self) -> None:
        """Lay the table of a new film, as it was left."""
        with self.lock:
            if self.tables.name != NEW:
                self.tables.lay(NEW, keep=not self._is_as_made())
                self.save()

    def clear(self) -> None:
        """Empty the table of a new film."""
        with self.lock:
            self.check(NEW)
            self.tables.clear()
            self.save()

    def bring_back(self) -> None:
        """Lay the table of a new film again as it was before it was emptied."""
        with self.lock:
            self.tables.bring_back()
            self.save()

    # Films.

    def runs(self) -> dict[str, Path]:
        """All run folders of the visitor, by name."""
        opened = [self.studio.opened] if self.studio.opened else []
        films = sorted((self.folder / "films").glob("*/"), key=lambda path: (len(path.name), path.name))
        return {path.name: path for path in [*opened, *films] if (path / RUN_FILE).is_file() and not path.is_symlink()}

    def films(self) -> dict[str, Path | None]:
        """The run folders of the films that can be shown, by name; None where nothing is made yet."""
        runs = self.runs()
        return {**runs, **{name: None for name in self.tables.waiting if name not in runs}}

    @property
    def run(self) -> Path | None:
        """The run folder on the table."""
        return self.runs().get(self.tables.name)

    def view(self) -> RunView:
        """The run on the table; raises SegueError if there is none."""
        if self.run is None:
            raise SegueError("no film is begun yet; add two pictures and make one")
        return RunView(self.run)

    def open(self, name: str) -> None:
        """Lay another film on the table: as it was left, or else with its own pictures and settings."""
        with self.lock:
            path, count = self.runs().get(name), 0
            if path is None and name not in self.tables.waiting:
                raise SegueError(f"there is no film {name}")
            if name == self.tables.name:
                return
            with suppress(SegueError):  # a damaged film is shown as far as it is known, with what is wrong with it
                if path:
                    count = RunView(path).keyframes
                    self.data["film"] = as_json(self._film_settings(path))
            if count > MOST:
                raise SegueError(f"{name} has {count} keyframes; this page takes at most {MOST}")
            self.tables.lay(name, keep=not self._is_as_made())
            self.save()

    def settings(self, values: Mapping[str, Any], preset: str) -> MorphSettings:
        """The settings of the page's controls, over those of a preset; what is empty is the default."""
        given = {name: setting for name, value in values.items() if (setting := read(name, value)) is not None}
        if self.studio.public:
            check_public(given)
        values = {**given, "prompt": self.keyframes.prompts()}
        return checked(MorphSettings, with_preset(preset, values, self.studio.model_name))

    def make(self, values: Mapping[str, Any], preset: str = "balanced") -> None:
        """Make a film of the keyframes: continue, grow or begin a run, and let it wait for its turn."""
        with self.lock:
            if len(self.keyframes) < 2:
                raise SegueError("a film needs at least two pictures; add them above")
            settings = self.settings(values, preset)
            fresh = self.keyframes.copies()
            name = self._same(settings, fresh) or self._new_name()
            path = self.runs().get(name) or self._place(name)
            film = self._film_settings(path) if name == self.tables.name else self._typed_film_settings()
            pictures = [self.keyframes.path(keyframe) for keyframe in fresh]
            if (path / RUN_FILE).is_file() and name == (self.studio.opened or path).name and self.studio.opened == path:
                pictures = [path / "frames" / f"{FrameKey(i).name}.png" for i in range(len(fresh))]

            def work(report: Report) -> None:
                report(Progress("model"))
                chosen = {name: getattr(settings, name) for name in as_json(settings)}
                morph = self.studio.model(*pictures, output=path, keep_candidates=True, callback=report, **chosen)
                self._film(morph, report, film)

            self._add("Making the film", work, name)
            if name != self.tables.name:
                self.data |= {"run": name, "film": as_json(film), "film_controls": {}}
            self.data["begun"][name] = fresh
            self.tables.keep("controls", values, preset=preset)

    def pause(self) -> None:
        """Hold the job at its next step."""
        if self.job:
            self.job.pause()

    def stop(self) -> None:
        """End the job at its next step; what is finished stays."""
        if self.job:
            self.job.stop()

    def resume(self) -> None:
        """Go on with a paused job, or with a run that is not finished."""
        if self.job and self.job.state == "paused":
            self.job.resume()
            return
        path = self.run
        if path is None:  # begun, and ended before anything was written
            self.make(self.data["controls"], self.data["preset"])
            return
        if (path / RUN_FILE).exists():
            self._add("Continuing", self._continued(path), path.name)

    def remake(self, place: str, change: Mapping[str, Any]) -> None:
        """Make a frame again: another candidate, or a new attempt under its own prompt, seed, noise or pose."""
        view, key = self.view(), frame_at(place)
        view.frame(key)
        candidate = None if change.get("candidate") is None else int(change["candidate"])
        edit = edit_of(view, key, change, self.folder / "poses") if candidate is None else None
        path, film = view.path, self._film_settings(view.path)

        def work(report: Report) -> None:
            report(Progress("model"))
            interpolator = self.studio.model
            if edit and edit.pose and not interpolator.backbone.controlnets:
                raise SegueError("this model has no ControlNet, so a pose changes nothing; start with --controlnet")
            if edit and edit.pose:
                pose_editor.prepare(path, view.keyframes, view.pose_size)
            morph = interpolator.remake(path, key, edit, candidate=candidate, compute=KEEP, callback=report)
            self._film(morph, report, film)

        self._add(f"Making frame {key} again", work, path.name)

    def step(self, *, back: bool) -> None:
        """Undo the last remake, or take the last undo back."""
        view = self.view()
        if back and view.history.undoable is None:
            raise SegueError("there is nothing to undo")
        if not back and not view.history.redoable:
            raise SegueError("there is nothing to redo")
        film = self._film_settings(view.path)

        def work(report: Report) -> None:
            report(Progress("model"))
            interpolator = self.studio.model
            morph = (interpolator.undo if back else interpolator.redo)(view.path, compute=KEEP, callback=report)
            self._film(morph, report, film)

        self._add("Undoing" if back else "Restoring", work, view.path.name)

    def film(self, values: Mapping[str, Any]) -> None:
        """Write the film anew with other settings of the film; costs no network call."""
        settings = checked(FilmSettings, _film_values(values))
        view = self.view()
        if not view.is_finished:
            raise SegueError("the film is not finished; continue it first")
        with self.lock:
            self.studio.queue.check(self.name)
            morph = Morph(view.path)
            morph.remember(self.output(view.path), settings)  # at once, for the page's command line
            self._add("Writing the film", lambda report: self._film(morph, report, settings), view.path.name)
            self.data |= {"film": as_json(settings), "film_controls": {}}
            self.save()

    def download(self, kind: str, film: str | None = None) -> Path:
        """A film, the one on the table if none is named, as a file of a kind of ``download.FORMATS``."""
        path = self.runs().get(self.tables.name if film is None else film)
        if path is None:
            raise SegueError("there is no such film")
        view = RunView(path)
        if not view.is_finished:
            raise SegueError("the film is not finished; continue it first")
        if kind == "mp4" and self.output(view.path).exists() and self.is_written(view):
            return self.output(view.path)
        folder = self.folder / "downloads" / view.path.name
        folder.mkdir(parents=True, exist_ok=True)
        return written(Morph(view.path), kind, folder, self._film_settings(view.path))

    def commands(self) -> list[str]:
        """The command lines that make the same film."""
        view = self.view()
        output = str(self.output(view.path))
        sources = [keyframe["source"] for keyframe in view.data["keyframes"]]
        lines = [command_line(sources, output, view.settings, self._film_settings(view.path), view.data["model"])]
        remakes = view.history.remakes
        return lines + [remake_line(output, view.path, remake, remakes[:i]) for i, remake in enumerate(remakes)]

    def output(self, path: Path) -> Path:
        """The film of a run."""
        return path.with_name(f"{path.name}.mp4")

    def is_written(self, view: RunView) -> bool:
        """Whether the film shows what its run now is: its writing was not cut off."""
        output = self.output(view.path)
        return bool(films_of(view.path)) and (
            not output.exists() or written_at(output) >= written_at(view.path / "state.json")
        )

    def before(self, path: Path) -> Path:
        """The film of a run as it was before its last change."""
        return self.folder / "before" / self.output(path).name

    # Parts.

    def save(self) -> None:
        """Write what the visitor has on the table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "studio.json", self.data)

    def _is_film(self, name: str) -> bool:
        """Whether there is, or was begun, a film of this name."""
        return name in self.runs() or name in self.data["begun"]

    def _made(self, name: str) -> Table:
        """The table of what a film was made of: its own pictures, prompts and settings."""
        path, known = self.runs().get(name), self.data["begun"].get(name)
        table: Table = {"keyframes": known or [], "preset": "balanced", "controls": {}, "film_controls": {}}
        try:
            view = RunView(path) if path else None
        except SegueError:
            if not known:
                raise
            return table
        if view:
            table["controls"] = _as_controls(view.settings)
        if view and not known:
            table["keyframes"] = self.data["begun"][name] = self._pictures(view)
        return table

    def _pictures(self, view: RunView) -> list[dict[str, Any]]:
        """The keyframes of a run that was made elsewhere, each with its prompt."""
        prompts = list(view.settings.prompt)
        prompts = prompts * view.keyframes if len(prompts) == 1 else prompts
        keyframes = Keyframes(self.folder / "keyframes", [], self.lock, lambda: None)
        for i in range(view.keyframes):
            source = Path(view.data["keyframes"][i]["source"]).name
            picture = view.path / "frames" / f"{FrameKey(i).name}.png"
            keyframes.add(picture, source, prompts[i] if prompts else "")
        return keyframes.entries

    def _is_as_made(self) -> bool:
        """Whether the keyframes and settings on the table are those of its run, and nothing else is typed."""
        path, name = self.run, self.tables.name
        if path is None or self.data["begun"].get(name) != self.keyframes.entries or self.data["film_controls"]:
            return False
        try:
            settings = self.settings(self.data["controls"], self.data["preset"])
            return not differences(as_json(RunView(path).settings), as_json(settings))
        except SegueError:  # what is typed is not a setting, or the run is damaged
            return False

    def _captioner(self) -> str | None:
        """The captioner that the page's controls name, as a film would take it."""
        given = read("captioner", self.data["controls"].get("captioner"))
        if self.studio.public:
            check_public({"captioner": given})
        return None if given is None else str(given)

    def _film_settings(self, path: Path) -> FilmSettings:
        """Those that the film of a run was written with; else those of the film that was last on the page."""
        films = films_of(path)
        written = films.get(self.output(path).absolute(), next(iter(films.values()), None))
        return written or checked(FilmSettings, self.data["film"])

    def _typed_film_settings(self) -> FilmSettings:
        """Those of a new film: of the film that was last on the page, and what is typed over them."""
        return checked(FilmSettings, {**self.data["film"], **_film_values(self.data["film_controls"])})

    def _continued(self, path: Path) -> Callable[[Report], None]:
        """Make what is missing of a run, and write its film."""
        film = self._film_settings(path)

        def work(report: Report) -> None:
            report(Progress("model"))
            interpolator = self.studio.model
            with RunFolder(path) as run:
                there = (run.read(RUN_FILE) or {}).get("model", {})
                if there.get("fingerprint") != interpolator.model["fingerprint"]:
                    parts = model_differences(there.get("parts", {}), interpolator.model["parts"])
                    raise SegueError(
                        f"{path.name} was made with {there.get('name')}, not with {interpolator.name}: {parts}"
                    )
                interpolator.make(run, KEEP, callback=report)
            self._film(Morph(path), report, film)

        return work

    def _film(self, morph: Morph, report: Report, film: FilmSettings) -> None:
        """Write the film and its contact sheet, and remember the film's settings for a remake; keep the film before."""
        report(Progress("film", total=len(morph)))
        output = self.output(morph.path)
        was = output.read_bytes() if output.exists() else None
        morph.save(output, film)
        if was is not None and was != output.read_bytes():
            before = self.before(morph.path)
            before.parent.mkdir(exist_ok=True)
            write_bytes(before, was)
        morph.contact_sheet(morph.path / "contact-sheet.png")
        morph.remember(output, film)

    def _add(self, title: str, work: Callable[[Report], None], film: str) -> None:
        job = Job(self.name, title, work, film)
        self.studio.queue.add(job)
        self.job = job

    def _same(self, settings: MorphSettings, keyframes: Sequence[Mapping[str, Any]]) -> str | None:
        """The run on the table, where these settings and keyframes continue or grow it."""
        name = self.tables.name
        if name == NEW or self.data["begun"].get(name) != keyframes:
            return None
        path = self.runs().get(name)
        if path is None:
            return name
        try:
            before, after = as_json(RunView(path).settings), as_json(settings)
        except SegueError:  # it is damaged, so another one is begun
            return None
        if not differences(before, after):
            return name
        is_more = {**before, "num_frames": after["num_frames"]} == after and settings.scheme == "branching"
        if is_more and grows(before["num_frames"], after["num_frames"], settings.branching):
            return name
        return None

    def _new_name(self) -> str:
        """The name of the next film."""
        opened = self.studio.opened
        if opened and not (opened / RUN_FILE).exists() and opened.name not in self.tables.waiting:
            return opened.name
        number = 1
        while (self.folder / "films" / f"film-{number}").exists() or f"film-{number}" in self.data["begun"]:
            number += 1
        return f"film-{number}"

    def _place(self, name: str) -> Path:
        if self.studio.opened and name == self.studio.opened.name:
            return self.studio.opened
        (self.folder / "films").mkdir(parents=True, exist_ok=True)
        return self.folder / "films" / name


def _as_controls(settings: MorphSettings) -> dict[str, Any]:
    """What the page's controls show of settings; the prompts stand at the keyframes."""
    values = as_json(settings)
    return {name: shown(name, values[name]) for name in controls()}


def _film_values(controls: Mapping[str, Any]) -> dict[str, Any]:
    """What the controls of the film say; what is empty is the default."""
    found = {name: read(name, value, FilmSettings) for name, value in controls.items()}
    return {name: value for name, value in found.items() if value is not None}


def _stored(file: Path) -> dict[str, Any]:
    """What a ``studio.json`` holds; a damaged one is put aside, and the films are still there."""
    try:
        return read_json(file) or {}
    except SegueError as error:
        aside = file.with_suffix(".damaged.json")
        print(f"segue: {error}; it is kept as {aside.name}, and its table is empty now", file=sys.stderr)
        file.replace(aside)
        return {}
