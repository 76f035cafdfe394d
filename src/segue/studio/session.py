"""A visitor of the studio: the pictures given, the films begun, and everything that can be done with them.

What a visitor has lies in a folder of their own: ``studio.json`` and ``keyframes/`` are the studio's, ``films/`` has a
run folder and a film for each, as the command line would write them. Nothing else is kept, so a reload or a new server
finds everything there.
"""

import json
import secrets
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from segue.errors import SegueError
from segue.files import write_json, writing
from segue.generate import Progress
from segue.history import Edit
from segue.interpolate import Interpolator
from segue.morph import Morph
from segue.pictures import load
from segue.run import RUN_FILE, RunFolder
from segue.settings import ComputeSettings, FilmSettings, MorphSettings, as_json, checked, differences, preset_settings
from segue.studio import pose_editor
from segue.studio.controls import command_line, controls, read, redo_line, shown
from segue.studio.jobs import Job, Queue
from segue.studio.timeline import RunView
from segue.tree import FrameKey, grows

__all__ = ["FORMATS", "Session", "Studio"]

FORMATS = {"mp4": "morph.mp4", "gif": "morph.gif", "webp": "morph.webp", "png": "frames.zip", "sheet": "sheet.png"}
KEEP = ComputeSettings(keep_candidates=True)
MOST_KEYFRAMES = 32


@dataclass
class Studio:
    """What all visitors share.

    Attributes:
        root: the folder of the visitors' folders.
        load: gives the model; it is loaded when the first film is made.
        describe: writes a prompt for a picture.
        opened: a run to open for everybody, where one was named.
        examples: pictures to begin with, by name.
        queue: the one queue.
    """

    root: Path
    load: Callable[[], Interpolator]
    describe: Callable[[Image.Image], str]
    opened: Path | None = None
    examples: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    queue: Queue = field(default_factory=Queue)
    _model: Interpolator | None = None
    _sessions: dict[str, "Session"] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

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
        with self._lock:
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
            "settings": {},
            "preset": "balanced",
            "film": {},
            "run": None,
            "begun": {},
        }
        if (folder / "studio.json").exists():
            self.data |= json.loads((folder / "studio.json").read_text())
        if studio.opened and (studio.opened / RUN_FILE).exists() and self.data["run"] is None:
            self.open(studio.opened.name)

    # Keyframes.

    def add(self, data: Path, name: str, prompt: str = "") -> None:
        """Take a picture as the last keyframe; SegueError if it is none."""
        with self.lock:
            if len(self.data["keyframes"]) >= MOST_KEYFRAMES:
                raise SegueError(f"{MOST_KEYFRAMES} keyframes are the most; remove one first")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    picture = load(data)
                except SegueError as error:
                    raise SegueError(str(error).replace(str(data), name)) from None
            number = secrets.token_hex(4)
            self._save(picture, f"{number}.png")
            keyframe = {"id": number, "name": name, "prompt": prompt, "crop": None, "size": list(picture.size)}
            self.data["keyframes"].append(keyframe)
            self.save()

    def remove(self, number: str) -> None:
        """Take a keyframe away; its picture stays until the server's folder is emptied."""
        with self.lock:
            self.data["keyframes"].remove(self._keyframe(number))
            self.save()

    def move(self, number: str, by: int) -> None:
        """Move a keyframe to the left (-1) or right (1)."""
        with self.lock:
            keyframes, keyframe = self.data["keyframes"], self._keyframe(number)
            place = keyframes.index(keyframe)
            keyframes.remove(keyframe)
            keyframes.insert(max(0, min(len(keyframes), place + by)), keyframe)
            self.save()

    def word(self, number: str, prompt: str) -> None:
        """Give a keyframe its prompt."""
        with self.lock:
            self._keyframe(number)["prompt"] = prompt.strip()[:2000]
            self.save()

    def crop(self, number: str, box: Sequence[float] | None) -> None:
        """Show only a part of a keyframe: left, top, right and bottom as shares; None for all."""
        with self.lock:
            keyframe = self._keyframe(number)
            if box is not None:
                left, top, right, bottom = (float(side) for side in box)
                width, height = keyframe["size"]
                if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                    raise SegueError("crop: left before right and top above bottom, each from 0 to 100 %")
                if (right - left) * width < 8 or (bottom - top) * height < 8:
                    raise SegueError("crop: at least 8 x 8 pixels must be left")
                with Image.open(self._picture(number)) as picture:
                    edges = (round(left * width), round(top * height), round(right * width), round(bottom * height))
                    self._save(picture.crop(edges), f"{number}-crop.png")
                box = [left, top, right, bottom]
            keyframe["crop"] = box
            self.save()

    def describe(self, number: str) -> str:
        """Write a prompt for a keyframe by looking at it."""
        with Image.open(self._shown(self._keyframe(number))) as picture:
            prompt = self.studio.describe(picture.convert("RGB"))
        if not prompt:
            raise SegueError("this model comes without captions; write the prompt yourself")
        self.word(number, prompt)
        return prompt

    def example(self, name: str) -> None:
        """Begin anew with an example's pictures."""
        pictures = self.studio.examples.get(name)
        if not pictures:
            raise SegueError(f"there is no example {name}")
        self.clear()
        for picture in pictures:
            self.add(picture, picture.name)

    def clear(self) -> None:
        """An empty table; the films stay."""
        with self.lock:
            self.data |= {"keyframes": [], "run": None}
            self.save()

    # Films.

    def runs(self) -> dict[str, Path]:
        """All run folders of the visitor, by name."""
        opened = [self.studio.opened] if self.studio.opened else []
        films = sorted((self.folder / "films").glob("*/"), key=lambda path: (len(path.name), path.name))
        return {path.name: path for path in [*opened, *films] if (path / RUN_FILE).is_file() and not path.is_symlink()}

    @property
    def run(self) -> Path | None:
        """The run folder on the table."""
        return self.runs().get(self.data["run"] or "")

    def view(self) -> RunView:
        """The run on the table; SegueError where there is none."""
        if self.run is None:
            raise SegueError("no film is begun yet; add two pictures and make one")
        return RunView(self.run)

    def open(self, name: str) -> None:
        """Lay another run on the table, with its pictures and settings."""
        with self.lock:
            path = self.runs().get(name)
            if path is None:
                raise SegueError(f"there is no film {name}")
            view, known = RunView(path), self.data["begun"].get(name)
            self.data["run"], self.data["preset"] = name, "balanced"
            self.data["settings"] = {k: v for k, v in as_json(view.settings).items() if k != "prompt"}
            if known:
                self.data["keyframes"] = [dict(keyframe) for keyframe in known]
            else:
                prompts = list(view.settings.prompt)
                prompts = prompts * view.keyframes if len(prompts) == 1 else prompts
                self.data["keyframes"] = []
                for i in range(view.keyframes):
                    source = Path(view.data["keyframes"][i]["source"]).name
                    picture = path / "frames" / f"{FrameKey(i).name}.png"
                    self.add(picture, source, prompts[i] if prompts else "")
                self.data["begun"][name] = [dict(keyframe) for keyframe in self.data["keyframes"]]
            self.save()

    def settings(self, values: Mapping[str, Any], preset: str) -> MorphSettings:
        """The settings of the page's controls, over those of a preset; what is empty is the default."""
        given = {name: setting for name, value in values.items() if (setting := read(name, value)) is not None}
        prompts = [keyframe["prompt"] for keyframe in self.data["keyframes"]]
        missing = [i for i, prompt in enumerate(prompts, 1) if not prompt]
        if missing and len(missing) < len(prompts):
            raise SegueError(f"keyframe {missing[0]} has no prompt: describe it, or empty the prompts of all")
        prompt = tuple(prompts) if prompts and not missing else ()
        return checked(MorphSettings, {**preset_settings(preset), **given, "prompt": prompt})

    def make(self, values: Mapping[str, Any], preset: str = "balanced") -> None:
        """Make a film of the keyframes: continue, grow or begin a run, and let it wait for its turn."""
        with self.lock:
            if len(self.data["keyframes"]) < 2:
                raise SegueError("a film needs two pictures or more; add them above")
            settings = self.settings(values, preset)
            fresh = [dict(keyframe) for keyframe in self.data["keyframes"]]
            name = self._same(settings, fresh) or self._new_name()
            path = self.runs().get(name) or self._place(name)
            pictures = [self._shown(keyframe) for keyframe in fresh]
            if (path / RUN_FILE).is_file() and name == (self.studio.opened or path).name and self.studio.opened == path:
                pictures = [path / "frames" / f"{FrameKey(i).name}.png" for i in range(len(fresh))]

            def work(report: Callable[[Progress], None]) -> None:
                report(Progress("model"))
                chosen = {name: getattr(settings, name) for name in as_json(settings)}
                morph = self.studio.model(*pictures, output=path, keep_candidates=True, callback=report, **chosen)
                self._film(morph, report)

            self._add("Making the film", work)
            self.data |= {"run": name, "settings": as_json(settings), "preset": preset}
            self.data["settings"].pop("prompt")
            self.data["begun"][name] = fresh
            self.save()

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
            self.make(self._values(), self.data["preset"])
            return
        if (path / RUN_FILE).exists():
            self._add("Continuing", self._continued(path))

    def redo(self, place: str, change: Mapping[str, Any]) -> None:
        """Make a frame again: another candidate, or a new attempt under its own prompt, seed, noise or pose."""
        view, key = self.view(), _key(place)
        view.frame(key)
        candidate = change.get("candidate")
        edit = self._edit(view, key, change) if candidate is None else None
        path = view.path

        def work(report: Callable[[Progress], None]) -> None:
            report(Progress("model"))
            number = None if candidate is None else int(candidate)
            segue = self.studio.model
            if edit and edit.pose and not segue.backbone.controlnets:
                raise SegueError("this model has no ControlNet, so a pose changes nothing; start with --controlnet")
            if edit and edit.pose:
                pose_editor.prepare(path, view.keyframes, view.size)
            morph = segue.redo(path, key, edit, candidate=number, compute=KEEP, callback=report)
            self._film(morph, report)

        self._add(f"Making frame {key} again", work)

    def step(self, *, back: bool) -> None:
        """Undo the last redo, or take the last undo back."""
        view = self.view()
        if back and view.history.undoable is None:
            raise SegueError("there is nothing to undo")
        if not back and not view.history.restorable:
            raise SegueError("there is no undo to take back")

        def work(report: Callable[[Progress], None]) -> None:
            report(Progress("model"))
            segue = self.studio.model
            morph = (segue.undo if back else segue.restore)(view.path, compute=KEEP, callback=report)
            self._film(morph, report)

        self._add("Undoing" if back else "Restoring", work)

    def film(self, values: Mapping[str, Any]) -> None:
        """Write the film anew with other settings of the film; costs no network call."""
        found = {name: read(name, value, FilmSettings) for name, value in values.items()}
        settings = checked(FilmSettings, {name: value for name, value in found.items() if value is not None})
        view = self.view()
        if not view.is_finished:
            raise SegueError("the film is not finished; continue it first")
        with self.lock:
            self.data["film"] = as_json(settings)
            self.save()
        self._add("Writing the film", lambda report: self._film(Morph(view.path), report))

    def download(self, kind: str) -> Path:
        """The film as a file of a kind of FORMATS; written when it is asked for, and again when the film changed."""
        view = self.view()
        if kind not in FORMATS:
            raise SegueError(f"there is no download {kind}; there are {', '.join(FORMATS)}")
        if not view.is_finished:
            raise SegueError("the film is not finished; continue it first")
        folder = self.folder / "downloads" / view.path.name
        folder.mkdir(parents=True, exist_ok=True)
        path, morph = folder / FORMATS[kind], Morph(view.path)
        if kind == "mp4":
            return self.output(view.path)
        if kind == "sheet":
            morph.contact_sheet(path)
        elif kind == "png":
            pngs = folder / "frames"
            morph.save(pngs, self._film_settings)
            shutil.make_archive(str(folder / "frames"), "zip", pngs)
            shutil.rmtree(pngs)
        else:
            morph.save(path, self._film_settings)
        return path

    def commands(self) -> list[str]:
        """The command lines that make the same film."""
        view = self.view()
        output = str(self.output(view.path))
        sources = [keyframe["source"] for keyframe in view.data["keyframes"]]
        lines = [command_line(sources, output, view.settings, self._film_settings, view.data["model"])]
        return lines + [redo_line(output, redo) for redo in view.history.redos]

    def output(self, path: Path) -> Path:
        """The film of a run."""
        return path.with_name(f"{path.name}.mp4")

    # Parts.

    def save(self) -> None:
        """Write what the visitor has on the table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "studio.json", self.data)

    @property
    def _film_settings(self) -> FilmSettings:
        return checked(FilmSettings, self.data["film"])

    def _continued(self, path: Path) -> Callable[[Callable[[Progress], None]], None]:
        """Make what is missing of a run, and write its film."""

        def work(report: Callable[[Progress], None]) -> None:
            report(Progress("model"))
            segue = self.studio.model
            with RunFolder(path) as run:
                there = (run.read(RUN_FILE) or {}).get("model", {})
                if there.get("fingerprint") != segue.model["fingerprint"]:
                    raise SegueError(f"{path.name} was made with {there.get('name')}, not with {segue.name}")
                segue.make(run, KEEP, callback=report)
            self._film(Morph(path), report)

        return work

    def _film(self, morph: Morph, report: Callable[[Progress], None]) -> None:
        """Write the film and its contact sheet, and remember the film's settings for a redo."""
        report(Progress("film", total=len(morph)))
        output, film = self.output(morph.path), self._film_settings
        morph.save(output, film)
        morph.contact_sheet(morph.path / "contact-sheet.png")
        morph.remember(output, film)

    def _add(self, title: str, work: Callable[[Callable[[Progress], None]], None]) -> None:
        job = Job(self.name, title, work)
        self.studio.queue.add(job)
        self.job = job

    def _edit(self, view: RunView, key: FrameKey, change: Mapping[str, Any]) -> Edit | None:
        """What changes at a frame; None where only its noise is new. What is not named stays as it was."""
        edit: dict[str, Any] = {}
        for name in ("prompt", "negative_prompt"):
            if text := str(change.get(name) or "").strip():
                edit[name] = text[:2000]
        for name, kind in (("seed", int), ("noise", float)):
            value = change.get(name)
            if value not in (None, ""):
                try:
                    edit[name] = kind(value)
                except (TypeError, ValueError):
                    raise SegueError(f"{name}: a number, not '{value}'") from None
        if edit.get("seed", 0) < 0:
            raise SegueError("seed: a whole number from 0 on")
        if change.get("pose"):
            pose = pose_editor.from_points(change["pose"], view.size)
            (self.folder / "poses").mkdir(parents=True, exist_ok=True)
            edit["pose"] = str(pose_editor.kept(pose, self.folder / "poses"))
        elif edit and (own := view.history.edit(key).pose):
            edit["pose"] = str(view.path / own)
        return Edit(**edit) if edit else None

    def _same(self, settings: MorphSettings, keyframes: Sequence[Mapping[str, Any]]) -> str | None:
        """The run on the table, where these settings and keyframes continue or grow it."""
        name = self.data["run"]
        if not name or self.data["begun"].get(name) != keyframes:
            return None
        path = self.runs().get(name)
        if path is None:
            return str(name)
        there = RunView(path)
        before, after = as_json(there.settings), as_json(settings)
        if not differences(before, after):
            return str(name)
        is_more = {**before, "num_frames": after["num_frames"]} == after and settings.scheme == "branching"
        if is_more and grows(before["num_frames"], after["num_frames"], settings.branching):
            return str(name)
        return None

    def _new_name(self) -> str:
        """The name of the next film."""
        if self.studio.opened and not self.studio.opened.exists():
            return self.studio.opened.name
        number = 1
        while (self.folder / "films" / f"film-{number}").exists() or f"film-{number}" in self.data["begun"]:
            number += 1
        return f"film-{number}"

    def _place(self, name: str) -> Path:
        if self.studio.opened and name == self.studio.opened.name:
            return self.studio.opened
        (self.folder / "films").mkdir(parents=True, exist_ok=True)
        return self.folder / "films" / name

    def _values(self) -> dict[str, Any]:
        """The settings on the table, as controls show them."""
        return {name: shown(name, value) for name, value in self.data["settings"].items() if name in controls()}

    def _keyframe(self, number: str) -> dict[str, Any]:
        for keyframe in self.data["keyframes"]:
            if keyframe["id"] == number:
                found: dict[str, Any] = keyframe
                return found
        raise SegueError("that keyframe is gone; reload the page")

    def _picture(self, number: str) -> Path:
        return self.folder / "keyframes" / f"{number}.png"

    def _shown(self, keyframe: Mapping[str, Any]) -> Path:
        """The picture of a keyframe, cropped where it is."""
        return self._picture(keyframe["id"] + ("-crop" if keyframe["crop"] else ""))

    def _save(self, picture: Image.Image, name: str) -> None:
        folder = self.folder / "keyframes"
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder / name) as temporary:
            picture.save(temporary, format="PNG")


def _key(place: str) -> FrameKey:
    """The frame at a place that the page names."""
    try:
        return FrameKey.at(Fraction(place))
    except (ValueError, ZeroDivisionError):
        raise SegueError(f"there is no frame at '{place}'") from None
