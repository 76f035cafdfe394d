"""What the method says while it works, and what it asks: progress to whoever watches, candidates to whoever chooses."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from PIL import Image

from segue.errors import SegueError, hearing
from segue.method.tree import FrameKey
from segue.run.journal import Edit, as_edit, whole_number

__all__ = [
    "AcceptRest",
    "Again",
    "Candidates",
    "Chooser",
    "Cost",
    "Made",
    "Pick",
    "Progress",
    "best",
    "describe",
    "duration",
    "tell_notices",
]


P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """What a scheme will compute.

    Attributes:
        levels: the legs of denoising; 0 if their number is decided on the way.
        frames: the frames to make.
        samples: the samples of all legs, candidates included.
        steps: the denoising steps of all samples.
    """

    levels: int
    frames: int
    samples: int
    steps: int


@dataclass(frozen=True)
class Progress:
    """Where the work is; handed to the callback.

    Attributes:
        stage: "words", "lora" or "frames"; of commands also "film", of the studio also "model".
        level, levels: the present level from 1, and how many there are (0 if that is decided on the way).
        frames, total: the finished frames and how many there will be, without the keyframes.
        step, steps: the denoising steps done and all (summed over samples); iterations in "words" and "lora".
        seconds: since the work began; left: the seconds that are left, where known.
        frame: the frame that was just finished; file: the picture of it, a PNG in the run folder.
        text: what a user should know at once, such as the captions that were found; mostly empty.
    """

    stage: str
    level: int = 0
    levels: int = 0
    frames: int = 0
    total: int = 0
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    left: float | None = None
    frame: FrameKey | None = None
    file: Path | None = None
    text: str = ""

    @property
    def picture(self) -> Image.Image | None:
        """What the frame that was just finished shows, read when it is asked for; None if it is not there."""
        if self.file is None or not self.file.exists():
            return None
        with Image.open(self.file) as image:
            return image.convert("RGB")


@dataclass(frozen=True)
class Candidates:
    """What a chooser is shown: a frame's candidates by number, its parents and the ranking's scores.

    ``newest`` is the first candidate of the newest try.
    """

    key: FrameKey
    level: int
    parents: tuple[FrameKey, ...]
    pictures: Mapping[int, Image.Image]
    scores: Mapping[int, float]
    newest: int = 0

    @property
    def best(self) -> int:
        """The best ranked candidate, or the newest try's first if there is no ranking."""
        return best(self.scores) if self.scores else self.newest


def best(scores: Mapping[int, float] | Sequence[float]) -> int:
    """The number of the highest score; ties go to the lower number, and a score that is not a number comes last."""
    numbered = scores if isinstance(scores, Mapping) else dict(enumerate(scores))
    if not numbered:
        raise ValueError("there are no scores to choose from")
    order = {n: (math.inf if math.isnan(score) else -score, math.isnan(score), n) for n, score in numbered.items()}
    return min(order, key=order.__getitem__)


@dataclass(frozen=True)
class Pick:
    """Keep this candidate."""

    candidate: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidate", whole_number("candidate", self.candidate))


@dataclass(frozen=True)
class Again:
    """Make more candidates, under an edit where one is given; as many as before, or ``count``."""

    edit: Edit | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.edit is not None:
            as_edit(self.edit)
        if self.count is not None:
            object.__setattr__(self, "count", whole_number("count", self.count))
            if self.count < 1:
                raise SegueError(f"count: at least 1 candidate, not {self.count}")


@dataclass(frozen=True)
class AcceptRest:
    """Choose this frame and all others as if nobody were asked."""


Chooser = Callable[[Candidates], Pick | Again | AcceptRest]


@dataclass(frozen=True)
class Made:
    """A frame as it now is: what it was made from, the cache key of what it shows, and its candidates.

    ``candidates`` has the cache key of each candidate, also of earlier tries, whose picture is kept; ``scores`` has
    the ranking's score of each, if there is one.
    """

    key: FrameKey
    level: int
    parents: tuple[FrameKey, ...]
    candidate: int
    cache_key: str
    candidates: Mapping[int, str] = field(default_factory=dict)
    scores: Mapping[int, float] = field(default_factory=dict)


def describe(progress: "Progress") -> str:
    """Where the work is, in words: "level 2 of 4, frame 3 of 15, 12 s left"; or what a user should know."""
    if progress.text:
        return progress.text
    if progress.stage == "words":
        return f"fitting the words, iteration {progress.step} of {progress.steps}"
    if progress.stage == "lora":
        return f"fitting the model to the keyframes, step {progress.step} of {progress.steps}"
    if progress.stage == "film":
        return "writing the film"
    if not progress.level:
        if not progress.levels:
            return f"at most {progress.total} frames, {progress.steps} denoising steps"
        frames = "1 frame" if progress.total == 1 else f"{progress.total} frames"
        levels = "1 level" if progress.levels == 1 else f"{progress.levels} levels"
        return f"{frames} in {levels}, {progress.steps} denoising steps"
    levels = f"level {progress.level}" + (f" of {progress.levels}" if progress.levels else "")
    left = f", {duration(progress.left)} left" if progress.left is not None and progress.level > 1 else ""
    return f"{levels}, frame {progress.frames} of {progress.total}{left}"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 45 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def tell_notices(work: Callable[P, T]) -> Callable[P, T]:
    """Let the ``callback`` of a method, if one is given, have each Notice of its work."""

    @wraps(work)
    def call(*args: P.args, **values: P.kwargs) -> T:
        callback: Any = values.get("callback")
        with hearing(callback) if callback else nullcontext():
            return work(*args, **values)

    return call
