"""The run folder: everything that was made, written as it is finished, each file whole or not at all.

run.json        what determines the images: settings, keyframes, model, versions
settings.toml   what segue morph --config makes the film of
journal.jsonl   choices and remakes, one line each, appended only
state.json      the film's frames as they now are
frames/         the film's frames, named by their place: 000.2500000.png
pictures/       what was made, by cache key; a frame is a link to one of these
latents/        the latents of each batch, by cache key
words/, pose/   cached inversions and captions; poses and control images
.new/           a run that overwrites this one, until its first frame is made
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import BaseFileLock
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from segue.errors import SegueError
from segue.files import append_line, remove, sweep, write_bytes, write_json, write_text, writing
from segue.lock import lock
from segue.method.tree import FrameKey
from segue.pictures.alpha import lay_on
from segue.run.journal import Event, History, event_to_json, events_of
from segue.run.schema import JOURNAL, RUN_FILE, SETTINGS_FILE, read_part

__all__ = ["RunFolder"]

LOCK = "lock"
NEW = ".new"
READY = ".ready"  # the same folder on its way into its place
KEPT = "the previous film stays until this one has a frame"
COMPRESSION = 3  # of PNGs: a third less time than the usual 6, for a tenth more bytes
WRITERS = 8  # pictures that are compressed and written at the same time
PARTS = (  # what a run folder holds beside its run file and its lock
    JOURNAL,
    SETTINGS_FILE,
    "state.json",
    "tree.json",
    "prompts.json",
    "points.json",
    "films.json",
    "distances.json",
    "loss.csv",
    "contact-sheet.png",
    "candidates.png",
    "frames",
    "pictures",
    "latents",
    "words",
    "pose",
    "control",
    NEW,
)


class RunFolder:
    """One run on disk, locked while it is open; use it as a context manager.

    Attributes:
        place: the run folder.
        path: where its files are: in the same folder, or for a run that overwrites another one, until it has a frame,
            in a folder of their own there.
        was_damaged: whether what the folder holds cannot be read, and is to be overwritten.
    """

    def __init__(self, path: Path, *, overwrites: bool = False) -> None:
        """Open (or begin) the run in a folder; one that cannot be read is not an error where it is to be overwritten.

        Raises:
            SegueError: another process has it open, it is not a run folder, or a part of it is damaged.
        """
        self.place = self.path = path
        self._is_new_folder = not path.exists()
        self._lock = _lock_folder(path)
        self.was_damaged = False
        try:
            self._move_in()  # it was killed while a run took its place
            self._is_new_run = not self._is_begun
            self._sweep()
            self._read(overwrites)
        except OSError as error:
            self.close()
            raise self._refusal(error) from error
        except BaseException:
            self.close()
            raise

    def reset(self) -> None:
        """Read anew what the folder holds."""
        self.history = History(self._events())
        self._index = self._latents()

    def _read(self, overwrites: bool) -> None:
        try:
            self.reset()
            if overwrites:
                self.read(RUN_FILE)
        except SegueError:
            if not overwrites:
                raise
            self.was_damaged = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        made = any((self.path / part).exists() for part in ("pictures", "words"))
        try:
            if isinstance(error, Exception) and self._is_aside and not made:
                remove(self.path)  # what was asked for is impossible
            elif self._is_new_run and isinstance(error, SegueError) and not made:
                self.clear()  # and nothing is left of it
        finally:
            self.close()
        if isinstance(error, SegueError) and self._is_aside and made:
            raise SegueError(f"{error}; {KEPT}") from error
        if isinstance(error, OSError | SafetensorError) and not isinstance(error, BrokenPipeError):
            raise self._refusal(error) from error

    def close(self) -> None:
        """Give the lock back; a folder that holds nothing else goes."""
        try:
            if not self._is_begun and [part.name for part in self.place.iterdir()] == [LOCK]:
                (self.place / LOCK).unlink()
                if self._is_new_folder:
                    self.place.rmdir()
        except OSError:  # the folder is gone, or has become read-only
            return
        finally:
            self._lock.release()

    def _refusal(self, error: Exception) -> SegueError:
        """One line for what the disk, or somebody who removed files, did to the run."""
        if not self.place.is_dir():
            return SegueError(f"{self.place} was removed while the film was made; the same command starts it again")
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        name = getattr(error, "filename", None)
        place = self.path if name is None else name
        return SegueError(f"{place} cannot be read or written: {reason}; the same command continues the film")

    def clear(self) -> None:
        """Empty the folder of the run; the run file goes first, so that no half of a run is left."""
        (self.path / RUN_FILE).unlink(missing_ok=True)
        for name in PARTS:
            remove(self.path / name)
        self.reset()

    @property
    def waiting(self) -> dict[str, Any] | None:
        """The run file of a run that had begun to overwrite this one; None if there is none that can be read."""
        try:
            return read_part(self.place / NEW, RUN_FILE)
        except SegueError:
            return None

    def drop_waiting(self) -> None:
        """Give up the run that had begun to overwrite this one."""
        remove(self.place / NEW)

    def set_aside(self, *, anew: bool = True) -> None:
        """Make from now on another run, which takes this one's place when it has a frame; a waiting one if not anew."""
        if anew:
            self.drop_waiting()
        self.path = self.place / NEW
        self.path.mkdir(exist_ok=True)
        self._sweep()
        self.reset()

    def take_place(self) -> None:
        """Put a run that was set aside in the place of the one that it overwrites."""
        if self._is_aside:
            self.path.replace(self.place / READY)
            self._move_in()
            self.path = self.place
            self._index = {cache_key: self.path / "latents" / file.name for cache_key, file in self._index.items()}

    def _move_in(self) -> None:
        """Move what is ready into its place, or go on with that after a kill; the run file goes before the rest."""
        ready = self.place / READY
        if (ready / RUN_FILE).exists():
            for name in PARTS:
                remove(self.place / name)
            (ready / RUN_FILE).replace(self.place / RUN_FILE)
        if ready.is_dir():
            for part in list(ready.iterdir()):
                part.replace(self.place / part.name)
            ready.rmdir()

    def _sweep(self) -> None:
        for folder in ("", "frames", "pictures", "latents", "words", "pose"):
            sweep(self.path / folder)

    @property
    def _is_aside(self) -> bool:
        return self.path != self.place

    @property
    def _is_begun(self) -> bool:
        return (self.place / RUN_FILE).exists()

    # Settings and state.

    def read(self, name: str) -> dict[str, Any] | None:
        """One of the run's JSON files; None if it is not there."""
        return read_part(self.path, name)

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one of the run's JSON files."""
        write_json(self.path / name, dict(content))

    def record(self, event: Event) -> None:
        """Append an event to the journal."""
        append_line(self.path / JOURNAL, json.dumps(event_to_json(event)))
        self.history.add(event)

    def save_losses(self, losses: Sequence[float]) -> None:
        """Keep the loss curve of the inversion."""
        lines = ["iteration,loss", *(f"{i},{loss:.6f}" for i, loss in enumerate(losses))]
        write_text(self.path / "loss.csv", "\n".join(lines) + "\n")

    # What was made.

    def has_latent(self, cache_key: str) -> bool:
        """Whether the latent of a cache key is there."""
        return cache_key in self._index

    def latent(self, cache_key: str) -> Tensor | None:
        """The latent of a cache key, (C, h, w) float32; None if it is not made yet."""
        path = self._index.get(cache_key)
        if path is None:
            return None
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(cache_key)
        return tensor.clone()  # not a map of the file, of which a process can have some ten thousands

    def save_latents(self, latents: Mapping[str, Tensor]) -> None:
        """Keep a batch of latents in one file."""
        name = hashlib.sha256("\n".join(sorted(latents)).encode()).hexdigest()[:16]
        path = self.path / "latents" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, save({cache_key: latent.contiguous() for cache_key, latent in latents.items()}))
        self._index |= dict.fromkeys(latents, path)

    def has_picture(self, cache_key: str) -> bool:
        """Whether the picture of a cache key is there."""
        return self._picture(cache_key).exists()

    def picture(self, cache_key: str) -> Image.Image:
        """The picture of a cache key."""
        return self._flat(self._picture(cache_key))

    def save_picture(self, cache_key: str, picture: Image.Image) -> None:
        """Keep the picture of a cache key."""
        self.save_image(f"pictures/{cache_key}.png", picture)

    def save_pictures(self, pictures: Iterable[tuple[str, Image.Image]]) -> None:
        """Keep pictures with their cache keys, some of which are made before they are compressed side by side."""
        coming = iter(pictures)
        with ThreadPoolExecutor(WRITERS, "segue-writer") as writers:
            while some := list(islice(coming, WRITERS)):
                for written in [writers.submit(self.save_picture, *picture) for picture in some]:
                    written.result()

    def drop(self, cache_keys: Iterable[str]) -> None:
        """Delete pictures of candidates that were not chosen; their latents stay."""
        for cache_key in cache_keys:
            self._picture(cache_key).unlink(missing_ok=True)

    def save_image(self, name: str, image: Image.Image) -> None:
        """Keep another picture, by its path in the folder."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        with writing(path) as temporary:
            image.save(temporary, format="PNG", compress_level=COMPRESSION)

    def image(self, name: str) -> Image.Image:
        """A picture by its path in the folder."""
        return _read(self.path / name)

    # The film's frames.

    def frame(self, key: FrameKey) -> Path:
        """The file of a frame."""
        return self.path / "frames" / f"{key.name}.png"

    def shown_image(self, key: FrameKey) -> Image.Image:
        """What a frame shows; where it is transparent, on the colour on which the networks see it."""
        return self._flat(self.frame(key))

    def whole_image(self, key: FrameKey) -> Image.Image:
        """What a frame shows, with its transparency."""
        return _read(self.frame(key))

    def _flat(self, path: Path) -> Image.Image:
        picture = _read(path)
        return picture if picture.mode == "RGB" else lay_on(picture, (self.read(RUN_FILE) or {})["ground"])

    def is_showing(self, key: FrameKey, cache_key: str) -> bool:
        """Whether the picture of a cache key is what a frame shows."""
        frame, picture = self.frame(key), self._picture(cache_key)
        if not (frame.exists() and picture.exists()):
            return False
        return frame.samefile(picture) or frame.read_bytes() == picture.read_bytes()

    def settle(self, key: FrameKey, cache_key: str) -> None:
        """Show the picture of a cache key as a frame."""
        frame, picture = self.frame(key), self._picture(cache_key)
        frame.parent.mkdir(exist_ok=True)
        try:
            with writing(frame, flush=False) as temporary:
                os.link(picture, temporary)
        except SegueError:  # a file system without links, or worse
            write_bytes(frame, picture.read_bytes())

    def save_keyframe(self, key: FrameKey, picture: Image.Image) -> None:
        """Write a keyframe as it was given, after fitting."""
        self.save_image(f"frames/{key.name}.png", picture)

    def forget_frames(self, keep: Sequence[FrameKey]) -> None:
        """Remove frames that the film does not have any more."""
        names = {self.frame(key).name for key in keep}
        for path in (self.path / "frames").glob("*.png"):
            if path.name not in names:
                path.unlink()

    def _picture(self, cache_key: str) -> Path:
        return self.path / "pictures" / f"{cache_key}.png"

    def _latents(self) -> dict[str, Path]:
        """Which file holds the latent of each cache key; damaged files are left out and made again."""
        index: dict[str, Path] = {}
        for path in sorted((self.path / "latents").glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    index |= dict.fromkeys(file.keys(), path)
            except (SafetensorError, OSError):
                path.unlink()
        return index

    def _events(self) -> list[Event]:
        """The journal; a last line that was cut off by a crash is dropped."""
        path = self.path / JOURNAL
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole, _, rest = text.rpartition("\n")
        if rest:
            write_bytes(path, f"{whole}\n".encode() if whole else b"")
        return events_of(path)


def _lock_folder(path: Path) -> BaseFileLock:
    """Make the folder where it is not there, and lock it; raises SegueError if it holds something else or is locked."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # which safetensors does not write
        raise SegueError(f"{path}: the name of an output must be UTF-8; choose another output") from error
    try:
        if path.exists() and not path.is_dir():
            raise SegueError(f"{path} is a file; a run needs a folder")
        names = {part.name for part in path.iterdir()} if path.exists() else set()
        # A run that was killed at its beginning left its lock, parts of it, and unfinished files.
        others = {name for name in names - {LOCK, READY, *PARTS} if not name.endswith(".part")}
        if names and RUN_FILE not in names and (LOCK not in names or others):
            raise SegueError(f"{path} holds other files but no run; choose another output")
        path.mkdir(parents=True, exist_ok=True)
        return lock(path / LOCK, path)
    except OSError as error:
        raise SegueError(f"{path} cannot be written: {error.strerror}") from error


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGBA" if image.has_transparency_data else "RGB")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for broken PNGs
        raise SegueError(f"{path} is damaged ({error}); delete it, and it is made again") from error
