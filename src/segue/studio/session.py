"""A visitor of the studio: the pictures given, the films begun, and which of them is on the table.

What a visitor has lies in a folder of their own: ``studio.json`` and ``keyframes/`` are the studio's, ``films/`` has a
run folder and a film for each, as the command line would write them. Nothing else is kept, so a reload or a new server
finds everything there.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.files import read_json, write_json
from segue.method.tree import FrameKey
from segue.models.cache import marks_of
from segue.run.schema import RUN_FILE
from segue.settings.kinds import ComputeSettings, MorphSettings, parse_settings
from segue.settings.presets import preset_settings, with_preset
from segue.settings.text import as_json, differences
from segue.studio.controls import check_public, controls, read, shown
from segue.studio.jobs import Job, Queue
from segue.studio.keyframes import MOST, Keyframes
from segue.studio.tables import NEW, Table, Tables
from segue.studio.timeline import RunView, film_settings

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
        loras: the files of its LoRAs.
    """

    root: Path
    load: Callable[[], Interpolator]
    describe: Callable[[Image.Image, str | None], str]
    opened: Path | None = None
    examples: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    queue: Queue = field(default_factory=Queue)
    public: bool = False
    model_name: str | None = None
    loras: Sequence[Path] = ()
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

    @cached_property
    def marks(self) -> list[str]:
        """What tells what the model was made for, beside its name."""
        return marks_of(self.model_name, self.loras)

    @cached_property
    def presets(self) -> tuple[str, ...]:
        """The presets that suit the model, the quickest first."""
        try:
            preset_settings("fast", self.model_name, self.marks)
        except SegueError:
            return ("draft", "balanced", "paper")
        return ("fast", "draft", "balanced", "paper")

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
            settings = parse_settings(MorphSettings, preset_settings(QUICKEST, self.studio.model_name))
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

    # Runs.

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
                    self.data["film"] = as_json(film_settings(path, self.data["film"]))
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
        return parse_settings(MorphSettings, with_preset(preset, values, self.studio.model_name, self.studio.marks))

    def pause(self) -> None:
        """Hold the job at its next step."""
        if self.job:
            self.job.pause()

    def stop(self) -> None:
        """End the job at its next step; what is finished stays."""
        if self.job:
            self.job.stop()

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


def _as_controls(settings: MorphSettings) -> dict[str, Any]:
    """What the page's controls show of settings; the prompts stand at the keyframes."""
    values = as_json(settings)
    return {name: shown(name, values[name]) for name in controls()}


def _stored(file: Path) -> dict[str, Any]:
    """What a ``studio.json`` holds; a damaged one is put aside, and the films are still there."""
    try:
        return read_json(file) or {}
    except SegueError as error:
        aside = file.with_suffix(".damaged.json")
        print(f"segue: {error}; it is kept as {aside.name}, and its table is empty now", file=sys.stderr)
        file.replace(aside)
        return {}
