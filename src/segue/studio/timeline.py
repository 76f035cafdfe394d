"""What the timeline shows: the frames of a run as they are, made or still to be made, read without its lock.

Everything here is read from the run folder's files, so that it is the same whether the studio or the command line
makes the film, and after a restart.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from segue.errors import SegueError
from segue.method.tree import FrameKey, UniformTree, level_at, noise_levels
from segue.run.journal import History, event_from_json
from segue.run.schema import RUN_FILE, films_of, read_part
from segue.settings.kinds import FilmSettings, MorphSettings, parse_settings

__all__ = ["RunView", "Slot", "again", "ancestors", "film_of", "film_settings", "written_at"]


@dataclass(frozen=True)
class Slot:
    """A frame's place on the timeline.

    Attributes:
        key: the frame.
        level: of the tree, -1 for keyframes.
        parents: the frames that it is made from.
        made: whether its picture is there; stamp: changes when the picture does.
        edited: whether a remake counts for it.
        candidate: the number of the candidate that it shows.
        candidates: the cache keys of its candidates; scores: theirs, where they are ranked.
    """

    key: FrameKey
    level: int
    parents: tuple[FrameKey, ...]
    made: bool
    stamp: int
    edited: bool = False
    candidate: int = 0
    candidates: Mapping[int, str] | None = None
    scores: Mapping[int, float] | None = None


class RunView:
    """A run folder as it is now; raises SegueError if there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = read_part(path, RUN_FILE)
        if data is None:
            raise SegueError(f"{path} does not hold a run")
        self.data: dict[str, Any] = data
        self.settings = parse_settings(MorphSettings, data["settings"])
        self.state = read_part(path, "state.json")
        self.history = _history(path / "journal.jsonl")

    @property
    def keyframes(self) -> int:
        """How many keyframes were given."""
        return len(self.data["keyframes"])

    @property
    def pairs(self) -> int:
        """How many gaps the film has."""
        return self.keyframes if self.settings.loop else self.keyframes - 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        width, height = self.data["size"]
        return int(width), int(height)

    @property
    def pose_size(self) -> tuple[int, int]:
        """Width and height of the pictures that poses are kept for: those that the model works on."""
        width, height = self.data.get("network", self.data["size"])
        return int(width), int(height)

    @property
    def is_finished(self) -> bool:
        """Whether everything that was asked for is made."""
        state = written_at(self.path / "state.json")
        return bool(state) and state >= max(written_at(self.path / RUN_FILE), written_at(self.path / "journal.jsonl"))

    @property
    def is_written(self) -> bool:
        """Whether the film shows what the run now is: its writing was not cut off."""
        film = film_of(self.path)
        return bool(films_of(self.path)) and (
            not film.exists() or written_at(film) >= written_at(self.path / "state.json")
        )

    def slots(self) -> list[Slot]:
        """All frames in order, those still to be made included (where the tree is known beforehand)."""
        known = {FrameKey.at(Fraction(frame["place"])): frame for frame in (self.state or {}).get("frames", [])}
        planned = {key: (level, parents) for key, level, parents in self._planned()}
        keys = {**dict.fromkeys(known), **dict.fromkeys(planned)} if not self.is_finished else dict.fromkeys(known)
        for key in (FrameKey(i) for i in range(self.pairs + 1)):
            keys.setdefault(key)
        if not self.is_finished:
            keys.update(dict.fromkeys(self._there()))
        edited = self.history.edited
        return [self._slot(key, known.get(key), planned.get(key), key in edited) for key in sorted(keys)]

    def frame(self, key: FrameKey) -> Slot:
        """One frame; raises SegueError if the film has none there."""
        for slot in self.slots():
            if slot.key == key:
                return slot
        raise SegueError(f"the film has no frame at {key}")

    def noise(self, slot: Slot) -> float | None:
        """The noise level of a frame: its own, or its level's; None for keyframes and other schemes."""
        own = self.history.edit(slot.key).noise
        if own is not None or slot.level < 0 or self.settings.scheme != "branching":
            return own
        settings = self.settings
        depth = UniformTree.depth(settings.num_frames, settings.branching)
        levels = settings.noise if len(settings.noise) > 2 else noise_levels(depth, *settings.noise_range)
        level = level_at(slot.key, settings.branching) if settings.align else slot.level
        return levels[min(level, len(levels) - 1)]

    def _slot(
        self,
        key: FrameKey,
        known: Mapping[str, Any] | None,
        planned: tuple[int, tuple[FrameKey, ...]] | None,
        edited: bool,
    ) -> Slot:
        stamp = written_at(self.path / "frames" / f"{key.name}.png")
        level, parents = planned or (-1, ())
        if known and not known["keyframe"]:
            level, made_of = known["level"], tuple(FrameKey.at(Fraction(place)) for place in known["parents"])
            # Frames of aligned keyframes are made straight from these, until one between them leads.
            parents = parents if parents and self.settings.align else made_of
        found = known or {}
        return Slot(
            key,
            level,
            parents,
            made=bool(stamp),
            stamp=stamp,
            edited=edited,
            candidate=int(found.get("candidate", 0)),
            candidates={int(number): cache_key for number, cache_key in found.get("candidates", {}).items()},
            scores={int(number): score for number, score in found.get("scores", {}).items()},
        )

    def _planned(self) -> Iterable[tuple[FrameKey, int, tuple[FrameKey, ...]]]:
        """The frames of the fixed tree."""
        settings = self.settings
        if settings.is_perceptual:
            return
        seen: set[FrameKey] = set()  # a film that is refined has the frames of the coarse one first
        for num_frames in sorted({settings.num_frames, settings.steps + 1}):
            depth = UniformTree.depth(num_frames, settings.branching)
            tree = UniformTree(self.pairs, num_frames, (0.5,) * depth, settings.branching)
            fresh = [midpoint for midpoint in tree.midpoints() if midpoint.key not in seen]
            seen.update(midpoint.key for midpoint in fresh)
            yield from ((midpoint.key, midpoint.level, (midpoint.left, midpoint.right)) for midpoint in fresh)

    def _there(self) -> Iterable[FrameKey]:
        """The frames whose pictures are there, where the tree is decided on the way."""
        if not self.settings.is_perceptual:
            return
        for path in (self.path / "frames").glob("*.png"):
            pair, _, position = path.stem.partition(".")
            yield FrameKey(int(pair), Fraction(int(position), 10**7).limit_denominator(4096))


def again(slots: Sequence[Slot], key: FrameKey) -> list[FrameKey]:
    """What is made again with a frame: the frame and its descendants, in the order of the film."""
    return sorted({key, *(other for other, above in ancestors(slots).items() if key in above)})


def ancestors(slots: Sequence[Slot]) -> dict[FrameKey, frozenset[FrameKey]]:
    """The frames that each frame is made from, directly and not."""
    found: dict[FrameKey, frozenset[FrameKey]] = {}
    for slot in sorted(slots, key=lambda slot: slot.level):
        found[slot.key] = frozenset(slot.parents).union(*(found.get(parent, frozenset()) for parent in slot.parents))
    return found


def _history(path: Path) -> History:
    """The journal as far as it is whole."""
    if not path.exists():
        return History()
    events = []
    for line in path.read_bytes().splitlines():
        try:
            events.append(event_from_json(json.loads(line)))
        except (KeyError, TypeError, ValueError):
            continue
    return History(events)


def written_at(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 if there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def film_of(path: Path) -> Path:
    """The film of a run."""
    return path.with_name(f"{path.name}.mp4")


def film_settings(path: Path, otherwise: Mapping[str, Any]) -> FilmSettings:
    """The settings that the film of a run was written with; others where it was not written yet."""
    films = films_of(path)
    written = films.get(film_of(path).absolute(), next(iter(films.values()), None))
    return written or parse_settings(FilmSettings, otherwise)
