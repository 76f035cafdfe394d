"""What was chosen and made again: an append-only journal, and what it means.

A frame's candidates come in tries. The first try is the level's own; "again" while picking and a remake begin a
new one, whose candidates carry numbers that were never used before, so that their noise is new. A choice and an
"again" hold for the parents and the try that they were made under (their context); a remake holds whatever the
parents are. So undo is reading the journal as if the last remake were not there, and redo takes the last undo back.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any

from segue.errors import SegueError
from segue.method.tree import FrameKey

__all__ = [
    "Attempt",
    "Choice",
    "Edit",
    "Event",
    "History",
    "Redo",
    "Remake",
    "Undo",
    "as_edit",
    "check_step",
    "event_from_json",
    "event_to_json",
    "events_of",
    "whole_number",
]


_KINDS: Mapping[str, tuple[Any, str, Callable[[Any], Any]]] = {  # what it may be, in words, and as what it is kept
    "prompt": (str, "a text", str),
    "negative_prompt": (str, "a text", str),
    "seed": (Integral, "a whole number", int),
    "noise": (Real, "a number", float),
    "pose": (str | PathLike, "the name of a file", str),
    "image": (str | PathLike, "the name of a file", str),
}


@dataclass(frozen=True)
class Edit:
    """What a user changed at one frame; None leaves the film's own.

    Attributes:
        prompt, negative_prompt: the frame's own words.
        seed: the seed of its noise.
        noise: the noise level f that its parents are diffused to.
        pose: an OpenPose JSON file.
        image: a picture that is the frame's prompt in place of its keyframes, with an IP-Adapter.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    noise: float | None = None
    pose: str | PathLike[str] | None = None
    image: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name, (kind, words, kept) in _KINDS.items():
            value = getattr(self, name)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, kind):
                    raise SegueError(f"a frame's {name} is {words}, not {value!r}")
                object.__setattr__(self, name, kept(value))
        if self.noise is not None and not 0 < self.noise < 1:
            raise SegueError(f"a frame's noise level lies between 0 and 1, not at {self.noise:g}")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise SegueError(f"a frame's seed lies between 0 and 2^63 - 1, not at {self.seed}")
        if self.prompt is not None and not self.prompt.strip():
            raise SegueError("prompt: an empty text; leave the prompt out to keep the film's")


def whole_number(name: str, value: object) -> int:
    """A whole number of any kind; SegueError, which begins with its name, for anything else."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise SegueError(f"{name} is a whole number, not {value!r}")
    return int(value)


def as_edit(edit: object) -> Edit:
    """An edit, as it is; raises SegueError for anything else."""
    if not isinstance(edit, Edit):
        raise SegueError(f"edit is an Edit, such as Edit(prompt='a lynx'), not {edit!r}")
    return edit


@dataclass(frozen=True)
class Attempt:
    """Candidates ``first`` to ``first + count - 1`` of a frame, made under an edit.

    An "again" names in ``context`` the try, and the parents, that it was asked for; the level's own try and
    that of a remake have no context.
    """

    key: FrameKey
    first: int = 0
    count: int = 1
    edit: Edit = field(default_factory=Edit)
    context: str = ""

    @property
    def candidates(self) -> range:
        """The numbers of the try's candidates."""
        return range(self.first, self.first + self.count)


@dataclass(frozen=True)
class Choice:
    """The candidate that stays, under the parents that ``context`` stands for.

    Attributes:
        by: "rank", "user" or "first".
        scores: the ranking's score of each candidate by its number.
    """

    key: FrameKey
    candidate: int
    context: str
    by: str = "user"
    scores: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Remake:
    """A frame made again: as a new try, or by another of its candidates."""

    attempt: Attempt | None = None
    key: FrameKey | None = None
    candidate: int | None = None

    @property
    def frame(self) -> FrameKey:
        """The frame that is made again."""
        key = self.attempt.key if self.attempt else self.key
        assert key is not None
        return key


@dataclass(frozen=True)
class Undo:
    """The last remake that still counts does not count any more."""


@dataclass(frozen=True)
class Redo:
    """The last undo is taken back."""


Event = Attempt | Choice | Remake | Undo | Redo


class History:
    """What a journal's events mean for each frame."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = list(events)

    def add(self, event: Event) -> None:
        """Take one more event."""
        self.events.append(event)

    def attempts(self, key: FrameKey, count: int, context_of: Callable[[Attempt], str]) -> list[Attempt]:
        """The tries that count for a frame: the level's own of ``count`` or the last remake's, and each "again"."""
        return self._attempts(key, count, context_of)[-1]

    def edit(self, key: FrameKey) -> Edit:
        """The edit of the last remake of a frame: of the try that it began, or of the candidate that it chose."""
        for entry in reversed(self._entries(key)):
            if isinstance(entry, Remake) and entry.candidate is not None:
                return self.attempt_of(key, entry.candidate).edit
            if isinstance(entry, Attempt) and not entry.context:
                return entry.edit
        return Edit()

    def attempt_of(self, key: FrameKey, candidate: int) -> Attempt:
        """The try that made a candidate; numbers of no try belong to the level's own."""
        for entry in self._all(key):
            if isinstance(entry, Attempt) and candidate in entry.candidates:
                return entry
        return Attempt(key, 0, candidate + 1)

    def choice(self, key: FrameKey, context: str) -> Choice | None:
        """The choice that counts for a frame under its present parents; None where one is to be made."""
        for entry in reversed(self._entries(key)):
            if isinstance(entry, Attempt) and not entry.context:
                return None
            if isinstance(entry, Remake) and entry.candidate is not None:
                return Choice(key, entry.candidate, context)
            if isinstance(entry, Choice) and entry.context == context:
                return entry
        return None

    def candidates(self, key: FrameKey, count: int, context_of: Callable[[Attempt], str]) -> list[int]:
        """The numbers of a frame's candidates: the level's own ``count``, those of remakes and "again" that count."""
        attempts = [attempt for begun in self._attempts(key, count, context_of) for attempt in begun]
        return sorted({number for attempt in attempts for number in attempt.candidates})

    def scores(self, key: FrameKey, contexts: Iterable[str]) -> dict[int, float]:
        """The scores that a frame's candidates got under any of the contexts."""
        found: dict[int, float] = {}
        known = set(contexts)
        for entry in self._entries(key):
            if isinstance(entry, Choice) and entry.context in known:
                found |= entry.scores
        return found

    def next_candidate(self, key: FrameKey, count: int) -> int:
        """The first number that no candidate of a frame ever had, undone ones included."""
        ends = [entry.first + entry.count for entry in self._all(key) if isinstance(entry, Attempt)]
        return max([count, *ends])

    @property
    def undoable(self) -> Remake | None:
        """The remake that an undo would take back."""
        return next(reversed(self.remakes), None)

    @property
    def redoable(self) -> bool:
        """Whether a redo would take an undo back: no remake came after it."""
        return bool(self._fold()[1])

    @property
    def edited(self) -> frozenset[FrameKey]:
        """The frames that a remake counts for."""
        return frozenset(event.frame for event in self.remakes)

    @property
    def has_poses(self) -> bool:
        """Whether any frame has candidates under a pose of its own."""
        attempts = (event.attempt if isinstance(event, Remake) else event for event in self._effective())
        return any(isinstance(attempt, Attempt) and attempt.edit.pose for attempt in attempts)

    @property
    def remakes(self) -> list[Remake]:
        """The remakes that count, oldest first."""
        return [event for event in self._effective() if isinstance(event, Remake)]

    def _attempts(self, key: FrameKey, count: int, context_of: Callable[[Attempt], str]) -> list[list[Attempt]]:
        """The level's own try and that of each remake, oldest first, each with every "again" that followed it."""
        given = [entry for entry in self._entries(key) if isinstance(entry, Attempt)]
        again = {attempt.context: attempt for attempt in given if attempt.context}
        found = [[Attempt(key, 0, count)], *([attempt] for attempt in given if not attempt.context)]
        for begun in found:
            while attempt := again.get(context_of(begun[-1])):
                begun.append(attempt)
        return found

    def _entries(self, key: FrameKey) -> list[Attempt | Choice | Remake]:
        """What counts for a frame, oldest first; a remake that begins a try stands as that try."""
        return _events_of_frame(key, self._effective())

    def _all(self, key: FrameKey) -> list[Attempt | Choice | Remake]:
        """The same with what was undone."""
        return _events_of_frame(key, self.events)

    def _effective(self) -> list[Event]:
        """The events that count, in order."""
        return self._fold()[0]

    def _fold(self) -> tuple[list[Event], list[tuple[int, Remake]]]:
        """The events that count, and the remakes that are undone and could be redone, with their places."""
        kept: list[Event] = []
        undone: list[tuple[int, Remake]] = []
        for event in self.events:
            if isinstance(event, Undo):
                place = max(i for i, earlier in enumerate(kept) if isinstance(earlier, Remake))
                remake = kept.pop(place)
                assert isinstance(remake, Remake)
                undone.append((place, remake))
            elif isinstance(event, Redo):
                place, remake = undone.pop()
                kept.insert(place, remake)
            else:
                if isinstance(event, Remake):
                    undone.clear()
                kept.append(event)
        return kept, undone


def event_to_json(event: Event) -> dict[str, Any]:
    """One line of the journal."""
    match event:
        case Attempt():
            return {"event": "attempt", **_attempt_json(event)}
        case Choice():
            scores = {str(number): score for number, score in event.scores.items()}
            return {
                "event": "choice",
                "frame": str(event.key.place),
                "candidate": event.candidate,
                "context": event.context,
                "by": event.by,
                "scores": scores,
            }
        case Remake(attempt=Attempt() as attempt):
            return {"event": "remake", **_attempt_json(attempt)}
        case Remake():
            return {"event": "remake", "frame": str(event.frame.place), "candidate": event.candidate}
        case Undo():
            return {"event": "undo"}
        case Redo():
            return {"event": "redo"}


def event_from_json(line: Mapping[str, Any]) -> Event:
    """The event of one line of the journal; KeyError, TypeError or ValueError for a broken one."""
    kind = line["event"]
    if kind == "undo":
        return Undo()
    if kind == "restore" or (kind == "redo" and "frame" not in line):  # earlier journals say "restore"
        return Redo()
    key = FrameKey.at(Fraction(line["frame"]))
    if kind == "choice":
        scores = {int(number): float(score) for number, score in line["scores"].items()}
        return Choice(key, int(line["candidate"]), str(line["context"]), str(line["by"]), scores)
    is_remake = kind in ("remake", "redo")  # with a frame, an earlier journal's "redo"
    if is_remake and "candidate" in line:
        return Remake(key=key, candidate=int(line["candidate"]))
    attempt = Attempt(key, int(line["first"]), int(line["count"]), Edit(**line["edit"]), str(line["context"]))
    if is_remake:
        return Remake(attempt=attempt)
    if kind == "attempt":
        return attempt
    raise ValueError(f"unknown event {kind!r}")


def check_step(history: History, folder: Path, *, redo: bool) -> None:
    """Raise SegueError if the run in a folder has nothing to undo, or no undo to take back."""
    if redo and not history.redoable:
        raise SegueError(f"{folder} has nothing to redo")
    if not redo and history.undoable is None:
        raise SegueError(f"{folder} has nothing to undo")


def events_of(path: Path) -> list[Event]:
    """The events of a journal's whole lines; none of a journal that is missing.

    Raises:
        SegueError: a line is broken.
    """
    try:
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    except FileNotFoundError:
        return []
    events = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            events.append(event_from_json(json.loads(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise SegueError(f"{path}, line {number}: not an event of a run: {line[:80]}") from error
    return events


def _attempt_json(attempt: Attempt) -> dict[str, Any]:
    edit = {name: value for name, value in asdict(attempt.edit).items() if value is not None}
    return {
        "frame": str(attempt.key.place),
        "first": attempt.first,
        "count": attempt.count,
        "edit": edit,
        "context": attempt.context,
    }


def _events_of_frame(key: FrameKey, events: Sequence[Event]) -> list[Attempt | Choice | Remake]:
    """The events of one frame."""
    found: list[Attempt | Choice | Remake] = []
    for event in events:
        if isinstance(event, Remake) and event.frame == key:
            found.append(event.attempt or event)
        elif isinstance(event, Attempt | Choice) and event.key == key:
            found.append(event)
    return found
