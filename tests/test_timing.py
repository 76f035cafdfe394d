from fractions import Fraction

import pytest

from segue.errors import SegueError
from segue.method.timing import (
    EASINGS,
    Bezier,
    Tick,
    frame_rate,
    moments,
    parse_easing,
    screen_times,
    timeline,
    way_at_rate,
)


def test_an_even_film_is_as_far_as_the_time_has_gone() -> None:
    assert moments([1, 1, 1, 1], EASINGS["linear"]) == pytest.approx([0, 1 / 4, 1 / 2, 3 / 4, 1])
    distances = [0.1, 0.5, 0.2, 0.9, 0.3]
    times = moments(distances, EASINGS["linear"])
    speeds = [far / (b - a) for far, a, b in zip(distances, times, times[1:], strict=False)]
    assert speeds == pytest.approx([sum(distances)] * 5, rel=1e-6)


def test_nothing_moves() -> None:
    assert moments([0, 0], EASINGS["linear"]) == moments([1, 1], EASINGS["linear"])


def test_ease_in_out_is_slow_at_the_ends() -> None:
    times = moments([1] * 8, EASINGS["ease-in-out"])
    assert times == pytest.approx([1 - time for time in times[::-1]])
    assert times[1] > 1 / 8 > times[5] - times[4]


FLAGS = [True, False, True, False, True]


def test_a_frame_is_on_screen_for_its_hold_and_half_of_the_ways_beside_it() -> None:
    shown = screen_times(timeline(FLAGS, [0.1] * 4, 0.5))
    assert [number for number, _ in shown] == [0, 1, 2, 3, 4]
    assert [seconds for _, seconds in shown] == pytest.approx([0.55, 0.1, 0.6, 0.1, 0.55])
    with pytest.raises(ValueError):
        timeline(FLAGS, [1.0] * 3, 0)


def test_a_boomerang_turns_at_its_ends() -> None:
    shown = screen_times(timeline(FLAGS, [0.1] * 4, 0.5, boomerang=True))
    assert [number for number, _ in shown] == [0, 1, 2, 3, 4, 3, 2, 1]
    assert [seconds for _, seconds in shown] == pytest.approx([0.6, 0.1] * 4)
    eased = screen_times(timeline(FLAGS, [1.5, 0.5, 0.5, 1.5], 0, boomerang=True))
    # It comes to a turning point as slowly as it leaves it.
    assert [seconds for _, seconds in eased] == pytest.approx([1.5, 1.0, 0.5, 1.0, 1.5, 1.0, 0.5, 1.0])


def test_a_closed_film_has_no_ends() -> None:
    shown = screen_times(timeline([True, False, True, False], [1.5, 0.5, 1.5, 0.5], 0, closed=True))
    assert [seconds for _, seconds in shown] == pytest.approx([1.0] * 4)
    assert timeline([True, False], [1.0, 3.0], 0, closed=True)[-1].way == 3.0


def test_ticks_say_where_between_two_frames_they_are() -> None:
    way = way_at_rate(timeline([True, False, True], [0.4, 0.2], 0.2), [True, False, True], Fraction(10))
    assert way.ticks() == [
        *[Tick(0, 0, 0.0)] * 3,
        *[Tick(0, 1, share) for share in (0.25, 0.5, 0.75)],
        Tick(1, 1, 0.0),
        Tick(1, 2, 0.5),
        *[Tick(2, 2, 0.0)] * 2,
    ]
    assert [(tick.left, count) for tick, count in way.runs(mixes=False)] == [(0, 4), (1, 3), (2, 3)]
    assert [count for _, count in way.runs(mixes=True)] == [3, 1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("fps", [5, 12, 24, Fraction(30000, 1001)])
@pytest.mark.parametrize("gap", [0.3, 0.77, 4 / 3])
@pytest.mark.parametrize("hold", [0.0, 0.01, 0.26])
def test_keyframes_are_on_the_nearest_tick(fps: Fraction, gap: float, hold: float) -> None:
    shown = timeline(FLAGS, [gap / 2] * 4, hold)
    ticks = way_at_rate(shown, FLAGS, Fraction(fps)).ticks()
    assert len(ticks) == pytest.approx((3 * hold + 2 * gap) * fps, abs=1)
    exact = [k for k, tick in enumerate(ticks) if tick == Tick(2, 2, 0.0)]
    assert exact[0] == pytest.approx((hold + gap) * fps, abs=0.5)
    assert ticks[0] == Tick(0, 0, 0.0)
    assert ticks[-1] == Tick(4, 4, 0.0)
    closed = way_at_rate(timeline(FLAGS, [gap / 2] * 5, hold, closed=True), FLAGS, Fraction(fps))
    assert closed.length == pytest.approx((3 * hold + 2.5 * gap) * fps, abs=0.5)


def test_a_film_that_goes_round_shows_its_first_frame_once() -> None:
    flags = [True, False]
    way = way_at_rate(timeline(flags, [0.3, 0.3], 0.2, closed=True), flags, Fraction(20))
    assert [(tick.left, count) for tick, count in way.runs(mixes=False)] == [(0, 10), (1, 6)]
    assert way.length == 16


def test_rates_are_those_of_files() -> None:
    for fps, rate in ((24, 24), (12.5, Fraction(25, 2)), (23.976, Fraction(24000, 1001)), (0.1, Fraction(1, 10))):
        assert frame_rate(fps) == rate
    for television, rate in ((23.98, 24000), (29.97, 30000), (59.94, 60000), (30000 / 1001, 30000)):
        assert frame_rate(television) == Fraction(rate, 1001)


def test_a_bezier_curve_is_inverted() -> None:
    curve = Bezier(0.25, 0.1, 0.25, 1.0)
    for u in (0.1, 0.4, 0.8):
        x = 3 * (1 - u) ** 2 * u * 0.25 + 3 * (1 - u) * u * u * 0.25 + u**3
        y = 3 * (1 - u) ** 2 * u * 0.1 + 3 * (1 - u) * u * u * 1.0 + u**3
        assert curve.time(y) == pytest.approx(x, abs=1e-8)
    assert EASINGS["linear"].time(0.37) == pytest.approx(0.37, abs=1e-8)


@pytest.mark.parametrize("text", ["bounce", "1,2,3", "0.4,0,1.5,1", "a,b,c,d"])
def test_a_wrong_easing_is_named(text: str) -> None:
    with pytest.raises(SegueError, match="easing"):
        parse_easing(text)
    assert parse_easing("0.42,0,0.58,1") == EASINGS["ease-in-out"]
