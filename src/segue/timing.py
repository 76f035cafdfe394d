"""How long each frame stays on screen, so that a film moves evenly or with an easing curve (no torch).

With d_i the perceived distance of frames i and i + 1, frame i stands at the perceived progress
P_i = (d_0 + ... + d_{i-1}) / (d_0 + ... + d_{n-2}). An easing curve says which progress is reached at which time, so
frame i belongs to the time t_i = ease^-1(P_i), and is shown between the middles of its neighbours' times.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from segue.errors import SegueError

__all__ = ["EASINGS", "Bezier", "easing_named", "screen_times"]


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


def screen_times(distances: Sequence[float], easing: Bezier) -> list[float]:
    """The share of the whole time for which each of n frames is on screen.

    Args:
        distances: how far apart neighbours look, n - 1 numbers; all 0 counts as all equal.
        easing: the progress over the time.

    Returns:
        n shares, which add up to 1.
    """
    steps = list(distances) if sum(distances) > 0 else [1.0] * len(distances)
    total = sum(steps)
    times = [easing.time(min(1.0, far / total)) for far in accumulate(steps, initial=0.0)]
    times[0], times[-1] = 0.0, 1.0
    edges = [0.0, *((a + b) / 2 for a, b in zip(times, times[1:], strict=False)), 1.0]
    return [b - a for a, b in zip(edges, edges[1:], strict=False)]


def _bezier(a: float, b: float, u: float) -> float:
    """One coordinate of the curve through 0, a, b and 1 at the parameter u."""
    return 3 * (1 - u) ** 2 * u * a + 3 * (1 - u) * u**2 * b + u**3
