"""A finished film: its frames, read when they are asked for, and the files that it is written to."""

import os
import shutil
import weakref
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from html import escape
from io import BytesIO
from itertools import pairwise
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack, overload

from PIL import Image

from segue.errors import SegueError, warn
from segue.files import write_json
from segue.film.smooth import compensate, dissolve
from segue.film.writers import contact_sheet, write_film
from segue.method.timing import (
    GAP,
    Showing,
    Tick,
    Way,
    frame_rate,
    moments,
    parse_easing,
    screen_times,
    timeline,
    way_at_rate,
)
from segue.method.tree import FrameKey
from segue.models.features.networks import reuse_network
from segue.pictures.alpha import lay_on
from segue.run.schema import FILMS_FILE, RUN_FILE, SETTINGS_FILE, films_of, read_part
from segue.settings.keywords import FilmValues
from segue.settings.kinds import FilmSettings, update_settings
from segue.settings.text import as_json, read_config, write_config

__all__ = ["Frames", "Morph"]

MOST_SHOWN = 8 * 2**20  # bytes of a film in a notebook


class Frames(Sequence[Image.Image]):
    """The frames of a film in order; each is read from its file when it is asked for."""

    def __init__(self, paths: Sequence[Path], *, of: "Frames | None" = None, on: str = "") -> None:
        self.paths = tuple(paths)
        self._on = on  # the colour behind what is transparent, where it should not be so
        self._of = of  # a temporary film's files stay as long as its frames, or a part of them

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> "Frames": ...

    def __getitem__(self, index: int | slice) -> "Image.Image | Frames":
        if isinstance(index, slice):
            return Frames(self.paths[index], of=self, on=self._on)
        with Image.open(self.paths[index]) as image:
            picture = image.convert("RGBA" if image.has_transparency_data else "RGB")
            return lay_on(picture, self._on) if self._on else picture

    def __iter__(self) -> Iterator[Image.Image]:
        return (self[i] for i in range(len(self)))


class Morph:
    """The frames between images, in a run folder.

    Attributes:
        path: the run folder.
        keys: the frames' keys, in order; a loop's first frame is not repeated at the end.
        frames: the frames as PIL images, read when asked for; RGBA where the film is transparent. ``morph[i]`` is one
            of them.

    A notebook shows the film itself.
    """

    path: Path
    keys: tuple[FrameKey, ...]
    frames: Frames

    def __init__(self, path: str | PathLike[str], *, temporary: bool = False) -> None:
        """Open the finished run in a folder; a temporary folder is removed when its frames are gone."""
        self.path = path = Path(path).absolute()
        self._is_temporary = temporary
        state = _read(path, "state.json")
        self._is_loop = bool(_read(path, RUN_FILE)["settings"]["loop"])
        frames = state["frames"][:-1] if self._is_loop else state["frames"]
        self.keys = tuple(FrameKey.at(Fraction(frame["place"])) for frame in frames)
        self.frames = Frames([path / "frames" / f"{frame['name']}.png" for frame in frames])
        if temporary:
            weakref.finalize(self.frames, shutil.rmtree, path, ignore_errors=True)

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> Frames: ...

    def __getitem__(self, index: int | slice) -> Image.Image | Frames:
        return self.frames[index]

    def __iter__(self) -> Iterator[Image.Image]:
        return iter(self.frames)

    def __repr__(self) -> str:
        width, height = _read(self.path, RUN_FILE)["size"]
        keyframes = sum(self.keyframe_flags)
        return f"<Morph of {len(self)} frames, {keyframes} of them keyframes, {width} x {height}, in {self.path}>"

    def _repr_html_(self) -> str:
        """The film, or its contact sheet where the film is large, as notebooks show it."""
        with TemporaryDirectory() as folder:
            film = self.save(Path(folder) / "film.mp4").read_bytes()
        if len(film) <= MOST_SHOWN:
            source = f"data:video/mp4;base64,{b64encode(film).decode()}"
            return f'<video src="{source}" title="{escape(repr(self))}" controls loop autoplay muted></video>'
        sheet = BytesIO()
        self.contact_sheet().save(sheet, format="JPEG", quality=85)
        return f'<img src="data:image/jpeg;base64,{b64encode(sheet.getvalue()).decode()}" alt="{escape(repr(self))}">'

    def __reduce__(self) -> tuple[Any, ...]:
        if self._is_temporary:
            raise SegueError("a temporary film is deleted with its frames and cannot be copied; give it an output")
        return type(self), (self.path,)

    @property
    def keyframe_flags(self) -> list[bool]:
        """For each frame, whether it is an image that the user gave."""
        return [key.is_keyframe for key in self.keys]

    def save(self, path: str | PathLike[str], film: FilmSettings | None = None, **values: Unpack[FilmValues]) -> Path:
        """Write the film as .mp4, .mov, .webm, .gif or .webp, or as PNGs into a folder (a path without an ending).

        Args:
            path: where to; a file there, or a folder of frames, is replaced when the new one is whole.
            film: the film's settings.
            values: fields of FilmSettings, instead of the film's.

        Raises:
            SegueError: an unknown ending or setting, a place that cannot be written, or a folder that holds other
                things than frames, such as the run's own.
        """
        if film is not None and not isinstance(film, FilmSettings):
            raise SegueError(f"film is a FilmSettings, such as FilmSettings(fps=24), not {film!r}")
        settings = update_settings(film or FilmSettings(), values)
        way, smooth = self._way(settings), settings.smooth
        runs = way.runs(mixes=smooth != "none")
        self._tell_left_out([tick for tick, _ in runs], settings.fps)
        if smooth == "none":
            pictures: Iterable[Image.Image] = (self.frames[tick.left] for tick, _ in runs)
        else:
            pictures = (dissolve if smooth == "dissolve" else compensate)(self.frames, way)
        write_film(Path(path), pictures, [count for _, count in runs], settings.fps, quality=settings.quality)
        return Path(path)

    def _tell_left_out(self, shown: Iterable[Tick], fps: float) -> None:
        """Say of frames that were made and are not shown that they are not."""
        missing = len(self) - len({number for tick in shown for number in tick[:2]})
        if missing:
            warn(
                f"{missing} of {len(self)} frames are left out: they would be on screen for less than 1/{fps:g} s; "
                "more seconds, or a higher fps, shows them"
            )

    def screen_times(self, film: FilmSettings) -> list[tuple[int, float]]:
        """The numbers of the frames in the order in which they are shown, each with its seconds on screen.

        That is before they are brought to the rate of the file, and without what ``smooth`` puts between them.
        """
        return screen_times(self._timeline(film))

    def distances(self, network: str = "pocket") -> list[float]:
        """How far apart neighbours look to a feature network, the seam of a loop last.

        They are measured once, and kept in the run folder.
        """
        paths = [*self.frames.paths, *self.frames.paths[: self._is_loop]]
        digests = [f"{path.name} {path.stat().st_mtime_ns}" for path in paths]
        known = read_part(self.path, "distances.json") or {}
        if (known.get("network"), known.get("frames")) != (network, digests):
            apart = reuse_network(network).path(Frames(paths, on="white")).steps.tolist()
            known = {"network": network, "frames": digests, "distances": apart}
            write_json(self.path / "distances.json", known)
        return [float(distance) for distance in known["distances"]]

    def _way(self, film: FilmSettings) -> Way:
        """The film's way through its frames, at the rate of the file."""
        return way_at_rate(self._timeline(film), self.keyframe_flags, frame_rate(film.fps))

    def _timeline(self, film: FilmSettings) -> list[Showing]:
        """What the film shows for how long."""
        ways = self._ways(film)
        return timeline(self.keyframe_flags, ways, film.hold, boomerang=film.boomerang, closed=self._is_loop)

    def _ways(self, film: FilmSettings) -> list[float]:
        """The seconds from each frame to the next; each gap between keyframes on its own."""
        count, network = len(self) - 1 + self._is_loop, film.even_network
        easing = parse_easing("linear" if network else film.easing)
        distances = self.distances(network) if network else [1.0] * count
        ends = [i for i, flag in enumerate(self.keyframe_flags) if flag]
        ways: list[float] = []
        for left, right in pairwise(dict.fromkeys([*ends, count])):  # a loop's last gap ends where the film does
            seconds = film.seconds or max(GAP, (right - left) / float(frame_rate(film.fps)))
            ways += [seconds * (after - before) for before, after in pairwise(moments(distances[left:right], easing))]
        return ways

    def contact_sheet(self, path: str | PathLike[str] | None = None) -> Image.Image:
        """All frames on one picture, also written as a PNG to a path where one is given."""
        return contact_sheet(self.frames, path)

    def seconds(self, film: FilmSettings) -> float:
        """How long the film plays."""
        return float(self._way(film).length / frame_rate(film.fps))

    def remember(self, path: str | PathLike[str], film: FilmSettings) -> None:
        """Note that a film was written, so that a remake writes it anew.

        Its place is kept as seen from the run folder: a film and its run folder can be copied or moved together.
        """
        known = read_part(self.path, FILMS_FILE) or {}
        films = {**known, os.path.relpath(Path(path).absolute(), self.path): as_json(film)}
        write_json(self.path / FILMS_FILE, films)
        config = self.path / SETTINGS_FILE
        kept = read_config(config) if config.exists() else {}
        write_config(config, {**kept, "output": str(path), **as_json(film)}, self.path)

    def films(self) -> dict[Path, FilmSettings]:
        """The films that were written of this run, with their settings."""
        return films_of(self.path)


def _read(folder: Path, name: str) -> dict[str, Any]:
    """One of the run's JSON files; raises SegueError if the run is not finished."""
    found = read_part(folder, name)
    if found is None:
        raise SegueError(f"{folder} does not hold a finished film")
    return found
