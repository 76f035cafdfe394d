"""The keyframes on a visitor's table: the pictures that were given, their order, crops and prompts."""

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import Any

from PIL import Image

from segue.errors import SegueError, hearing
from segue.files import writing
from segue.pictures.images import load

__all__ = ["MOST", "Keyframes"]

MOST = 32
LONGEST_PROMPT = 2000  # letters
SMALLEST_CROP = 8  # pixels


class Keyframes:
    """The keyframes of one visitor, in order; each a plain mapping that ``studio.json`` keeps.

    Attributes:
        folder: where the pictures lie, as ID.png and ID-crop.png.
        entries: the keyframes with id, name, prompt, size (width, height in pixels) and crop (left, top, right and
            bottom as shares, or None).
    """

    def __init__(self, folder: Path, entries: list[dict[str, Any]], lock: RLock, save: Callable[[], None]) -> None:
        self.folder, self.entries = folder, entries
        self._lock, self._save = lock, save

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, data: Path, name: str, prompt: str = "") -> None:
        """Take a picture as the last keyframe; raises SegueError if it is none."""
        with self._lock:
            if len(self.entries) >= MOST:
                raise SegueError(f"a film has at most {MOST} keyframes; remove one first")
            with hearing():
                try:
                    picture = load(data)
                except SegueError as error:
                    raise SegueError(str(error).replace(str(data), name)) from None
            number = secrets.token_hex(4)
            self._write(picture, f"{number}.png")
            self.entries.append(
                {"id": number, "name": name, "prompt": prompt, "crop": None, "size": list(picture.size)}
            )
            self._save()

    def remove(self, number: str) -> None:
        """Take a keyframe away; its picture stays until the server's folder is emptied."""
        with self._lock:
            self.entries.remove(self[number])
            self._save()

    def move(self, number: str, by: int) -> None:
        """Move a keyframe so many places to the right, or to the left if negative."""
        with self._lock:
            keyframe = self[number]
            place = self.entries.index(keyframe)
            self.entries.remove(keyframe)
            self.entries.insert(max(0, min(len(self.entries), place + by)), keyframe)
            self._save()

    def word(self, number: str, prompt: str) -> None:
        """Give a keyframe its prompt."""
        with self._lock:
            self[number]["prompt"] = prompt.strip()[:LONGEST_PROMPT]
            self._save()

    def crop(self, number: str, box: Sequence[float] | None) -> None:
        """Show only a part of a keyframe: left, top, right and bottom as shares; None for all."""
        with self._lock:
            keyframe = self[number]
            if box is not None:
                left, top, right, bottom = (float(side) for side in box)
                width, height = keyframe["size"]
                if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                    raise SegueError("crop: left before right and top above bottom, each from 0 to 100 %")
                if (right - left) * width < SMALLEST_CROP or (bottom - top) * height < SMALLEST_CROP:
                    raise SegueError(f"crop: at least {SMALLEST_CROP} x {SMALLEST_CROP} pixels must be left")
                with Image.open(self.folder / f"{number}.png") as picture:
                    edges = (round(left * width), round(top * height), round(right * width), round(bottom * height))
                    box = [left, top, right, bottom]
                    self._write(picture.crop(edges), self.path({**keyframe, "crop": box}).name)
            keyframe["crop"] = box
            self._save()

    def replace(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Lay other keyframes on the table, none for an empty one."""
        self.entries[:] = [dict(entry) for entry in entries]

    def copies(self) -> list[dict[str, Any]]:
        """The keyframes as they are now."""
        return [dict(entry) for entry in self.entries]

    def path(self, keyframe: Mapping[str, Any]) -> Path:
        """The picture that a keyframe gives to the film, cropped where it is; each crop has a file of its own."""
        if not keyframe["crop"]:
            return self.folder / f"{keyframe['id']}.png"
        box = hashlib.sha256(repr([float(side) for side in keyframe["crop"]]).encode()).hexdigest()[:8]
        return self.folder / f"{keyframe['id']}-{box}-crop.png"

    def prompts(self) -> tuple[str, ...]:
        """The prompts of all keyframes, or none; raises SegueError if only some have one."""
        prompts = [keyframe["prompt"] for keyframe in self.entries]
        missing = [number for number, prompt in enumerate(prompts, 1) if not prompt]
        if missing and len(missing) < len(prompts):
            raise SegueError(f"keyframe {missing[0]} has no prompt: describe it, or empty the prompts of all")
        return () if missing else tuple(prompts)

    def __getitem__(self, number: str) -> dict[str, Any]:
        for keyframe in self.entries:
            if keyframe["id"] == number:
                return keyframe
        raise SegueError("that keyframe is gone; reload the page")

    def _write(self, picture: Image.Image, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with writing(self.folder / name) as temporary:
            picture.save(temporary, format="PNG")
