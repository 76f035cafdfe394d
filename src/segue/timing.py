"""When each frame is reached, so that a film moves evenly or with an easing curve (no torch).

With d_i the perceived distance of frames i and i + 1, frame i stands at the perceived progress
P_i = (d_0 + ... + d_{i-1}) / (d_0 + ... + d_{n-2}). An easing curve says which progress is reached at which time, so
frame i belongs to the time t_i = ease^-1(P_i); it is on screen from the middle between its neighbour's time
and its own to the next such middle.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from segue.errors import SegueError

__all__ = ["EASINGS", "Bezier", "Showing", "easing_named", "moments", "on_screen", "timeline"]


class Bezier(NamedTuple):
    """A cubic Bezier curve from (0, 0) to (1, 1) over time x and progress y, as in CSS."""

    x1: float
    y1: float
    x2: float
    y2: float

    def time(self, progress: float) -> float:
        """The time 0 to 1 at which a progress is reached, to 1e-9; the curve rises, so bisection finds it."""
        low, high = 0.0, 1.0
        for _ in range(32):
            middle = (low + high) / 2
            if _bezier(self.y1, self.y2, middle) < progress:
                low = middle
            else:
                high = middle
        return _bezier(self.x1, self.x2, (low + high) / 2)


EASINGS = {
    "linear": Bezier(1 / 3, 1 / 3, 2 / 3, 2 / 3),
    "ease-in": Bezier(0.42, 0.0, 1.0, 1.0),
    "ease-out": Bezier(0.0, 0.0, 0.58, 1.0),
    "ease-in-out": Bezier(0.42, 0.0, 0.58, 1.0),
}


def easing_named(text: str) -> Bezier:
    """An easing curve by its name, or by the four numbers of a Bezier curve: 0.42,0,0.58,1."""
    if text in EASINGS:
        return EASINGS[text]
    try:
        x1, y1, x2, y2 = (float(number) for number in text.split(","))
    except ValueError:
        names = ", ".join(EASINGS)
        raise SegueError(f"easing is one of {names}, or four numbers such as 0.42,0,0.58,1, not '{text}'") from None
    if not all(0 <= number <= 1 for number in (x1, y1, x2, y2)):
        raise SegueError(f"easing: the four numbers lie between 0 and 1, not {text}")
    return Bezier(x1, y1, x2, y2)


def moments(distances: Sequence[float], easing: Bezier) -> list[float]:
    """The time 0 to 1 at which each of n frames is reached.

    Args:
        distances: how far apart neighbours look, n - 1 numbers; all 0 counts as all equal.
        easing: the progress over the time.
    """
    steps = list(distances) if sum(distances) > 0 else [1.0] * len(distances)
    total = sum(steps)
    times = [easing.time(min(1.0, far / total)) for far in accumulate(steps, initial=0.0)]
    return [0.0, *times[1:-1], 1.0]


class Showing(NamedTuple):
    """One of the frames that a film shows, in the order in which it does.

    Attributes:
        number: the frame's, in the order of the places.
        still: seconds for which it stands.
        way: seconds of the way to the next one; of the last, to the first, or 0 where the film ends.
    """

    number: int
    still: float
    way: float


def timeline(
    keyframe_flags: Sequence[bool],
    ways: Sequence[float],
    fps: float,
    hold: float,
    *,
    boomerang: bool = False,
    closed: bool = False,
) -> list[Showing]:
    """What a film shows for how long.

    Args:
        keyframe_flags: for each frame, whether it is a keyframe.
        ways: the time from each frame to the next, in frames of an even film; where the film is closed, also from the
            last one to the first.
        fps: frames per second.
        hold: seconds for which a keyframe stays, where that is longer than a frame; a little more or less where the
            ways beside it are longer or shorter than those of an even film.
        boomerang: go back through the frames between the first and the last, so that a repeated film goes to and fro.
        closed: the film goes round; with ``boomerang``, it turns where it comes to its first frame again.

    Where a film ends, its first and its last frame stand for half a frame more, so that all frames of an even film
    have the same time on screen.
    """
    still = [max(0.0, hold - 1 / fps) if flag else 0.0 for flag in keyframe_flags]
    seconds = [way / fps for way in ways]
    numbers = list(range(len(still)))
    if boomerang:
        forth = [*numbers, 0] if closed else numbers
        numbers, seconds = forth + forth[-2:0:-1], seconds + seconds[::-1]
    elif not closed:
        still[0], still[-1] = still[0] + 0.5 / fps, still[-1] + 0.5 / fps
        seconds.append(0.0)
    return [Showing(number, still[number], way) for number, way in zip(numbers, seconds, strict=True)]


def on_screen(shown: Sequence[Showing]) -> list[tuple[int, float]]:
    """The numbers of frames, each with its seconds on screen: as it stands, and half of the ways to and from it."""
    before = [shown[-1].way, *(showing.way for showing in shown)]
    return [(s.number, s.still + (come + s.way) / 2) for come, s in zip(before, shown, strict=False)]


def _bezier(a: float, b: float, u: float) -> float:
    """One coordinate of the curve through 0, a, b and 1 at the parameter u."""
    return 3 * (1 - u) ** 2 * u * a + 3 * (1 - u) * u**2 * b + u**3
