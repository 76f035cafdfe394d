"""When each frame is reached, and what each tick of a film shows (no torch).

With d_i the perceived distance of frames i and i + 1, frame i stands at the perceived progress
P_i = (d_0 + ... + d_{i-1}) / (d_0 + ... + d_{n-2}). An easing curve says which progress is reached at which time, so
frame i belongs to the time t_i = ease^-1(P_i).

A film is a way through its frames: a keyframe stands for its hold, then the gap takes its time. Files have a constant
rate, so keyframes are moved to the nearest tick of 1 / fps, and what is between them with them. Tick k shows the place
of the way at k / fps.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, groupby
from typing import NamedTuple

from segue.errors import SegueError

__all__ = [
    "EASINGS",
    "GAP",
    "Bezier",
    "Showing",
    "Tick",
    "Way",
    "frame_rate",
    "moments",
    "parse_easing",
    "screen_times",
    "timeline",
    "way_at_rate",
]

GAP = 4 / 3  # seconds that a gap takes where nothing else is asked for: 17 frames at 12 a second


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


def parse_easing(text: str) -> Bezier:
    """An easing curve by its name, or by the four numbers of a Bezier curve: 0.42,0,0.58,1."""
    if text in EASINGS:
        return EASINGS[text]
    try:
        x1, y1, x2, y2 = (float(number) for number in text.split(","))
    except ValueError:
        names = ", ".join(EASINGS)
        raise SegueError(f"easing is one of {names}, even, or four numbers as 0.42,0,0.58,1, not '{text}'") from None
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
    hold: float,
    *,
    boomerang: bool = False,
    closed: bool = False,
) -> list[Showing]:
    """What a film shows for how long.

    Args:
        keyframe_flags: for each frame, whether it is a keyframe.
        ways: seconds from each frame to the next; where the film is closed, also from the last one to the first.
        hold: seconds for which a keyframe stands.
        boomerang: go back through the frames between the first and the last, so that a repeated film goes to and fro.
        closed: the film goes round; with ``boomerang``, it turns where it comes to its first frame again.
    """
    numbers, seconds = list(range(len(keyframe_flags))), list(ways)
    if boomerang:
        forth = [*numbers, 0] if closed else numbers
        numbers, seconds = forth + forth[-2:0:-1], seconds + seconds[::-1]
    elif not closed:
        seconds.append(0.0)
    still = [hold if flag else 0.0 for flag in keyframe_flags]
    return [Showing(number, still[number], way) for number, way in zip(numbers, seconds, strict=True)]


def screen_times(shown: Sequence[Showing]) -> list[tuple[int, float]]:
    """The numbers of frames, each with its seconds on screen: as it stands, and half of the ways to and from it."""
    before = [shown[-1].way, *(showing.way for showing in shown)]
    return [(s.number, s.still + (come + s.way) / 2) for come, s in zip(before, shown, strict=False)]


class Tick(NamedTuple):
    """What a film shows in one frame of its file: the place between two of its own frames, ``share`` of the way."""

    left: int
    right: int
    share: float

    @property
    def nearest(self) -> "Tick":
        """The nearer one of both frames; of equally near ones the later one."""
        number = self.right if self.share >= 0.5 else self.left
        return Tick(number, number, 0.0)


class Way(NamedTuple):
    """A film's way through its frames, in ticks of its rate.

    Attributes:
        knots: the times at which it comes to a frame or leaves it, and the frame's number, in order.
        length: the ticks of the film.
    """

    knots: list[tuple[float, int]]
    length: int

    def ticks(self) -> list[Tick]:
        """What each tick shows."""
        times = [time for time, _ in self.knots]
        ticks = []
        for k in range(self.length):
            i = bisect_right(times, k + _LEAST) - 1
            (time, left), (after, right) = self.knots[i], self.knots[min(i + 1, len(times) - 1)]
            share = (k - time) / (after - time) if right != left else 0.0
            ticks.append(Tick(left, right, round(share, 6)) if share > _LEAST else Tick(left, left, 0.0))
        return ticks

    def runs(self, *, mixes: bool) -> list[tuple[Tick, int]]:
        """What is shown in order, each for how many ticks; between two frames the nearer one, if it does not mix."""
        ticks = self.ticks() if mixes else [tick.nearest for tick in self.ticks()]
        runs = [(tick, len(list(same))) for tick, same in groupby(ticks)]
        if len(runs) > 1 and runs[0][0] == runs[-1][0]:  # it goes round: what is shown last is what is shown first
            runs[0] = runs[0][0], runs[0][1] + runs.pop()[1]
        return runs


_LEAST = 1e-6  # of a tick: below it times are equal


def way_at_rate(shown: Sequence[Showing], keyframe_flags: Sequence[bool], fps: Fraction) -> Way:
    """A film at a constant rate, as long as it is to a tick: an end that nothing holds has one tick, the last."""
    is_closed = shown[-1].way > 0
    stops = [*shown, Showing(shown[0].number, 0.0, 0.0)] if is_closed else shown
    knots: list[tuple[float, int]] = []
    between: list[tuple[float, int]] = []  # the frames since the last keyframe, in seconds
    clock = left = 0.0
    is_bare = False
    for number, still, way in stops:
        if keyframe_flags[number]:
            is_bare = way == 0 and not is_closed and _tick(clock + still, fps) == _tick(clock, fps)
            end = math.floor((clock + still) * fps + _LEAST) if is_bare else _tick(clock, fps)
            begin = knots[-1][0] if knots else 0
            stretch = (end - begin) / (clock - left) if clock > left else 0.0
            knots += [(begin + (time - left) * stretch, frame) for time, frame in between]
            left = clock + still
            knots += [(end, number), (end if is_bare else _tick(left, fps), number)]
            between = []
        else:
            between.append((clock, number))
        clock += still + way
    return Way(knots, int(knots[-1][0]) + is_bare)


def frame_rate(fps: float) -> Fraction:
    """Frames per second as files have it; those of television, such as 23.976 and 29.97, are n x 1000 / 1001."""
    television = Fraction(round(fps * 1.001) * 1000, 1001)
    is_of_television = fps != round(fps) and abs(television - fps) < 0.005
    return television if is_of_television else Fraction(fps).limit_denominator(1001)


def _tick(seconds: float, fps: Fraction) -> int:
    """The nearest tick; of equally near ones the later one."""
    return math.floor(seconds * fps + 0.5 + _LEAST)


def _bezier(a: float, b: float, u: float) -> float:
    """One coordinate of the curve through 0, a, b and 1 at the parameter u."""
    return 3 * (1 - u) ** 2 * u * a + 3 * (1 - u) * u**2 * b + u**3
