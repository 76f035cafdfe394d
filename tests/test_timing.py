import pytest

from segue.errors import SegueError
from segue.timing import EASINGS, Bezier, easing_named, moments, on_screen, timeline


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


def test_all_frames_of_a_uniform_film_have_the_same_time_but_held_keyframes() -> None:
    shown = on_screen(timeline(FLAGS, [1.0] * 4, 10, 0.5))
    assert [number for number, _ in shown] == [0, 1, 2, 3, 4]
    assert [seconds for _, seconds in shown] == pytest.approx([0.5, 0.1, 0.5, 0.1, 0.5])
    assert [seconds for _, seconds in on_screen(timeline(FLAGS, [1.0] * 4, 10, 0))] == pytest.approx([0.1] * 5)
    assert [seconds for _, seconds in on_screen(timeline([True] * 3, [1.0] * 2, 4, 0.1))] == pytest.approx([0.25] * 3)
    with pytest.raises(ValueError):
        timeline(FLAGS, [1.0] * 3, 10, 0)


def test_a_boomerang_turns_at_its_ends() -> None:
    shown = on_screen(timeline(FLAGS, [1.0] * 4, 10, 0.5, boomerang=True))
    assert [number for number, _ in shown] == [0, 1, 2, 3, 4, 3, 2, 1]
    assert [seconds for _, seconds in shown] == pytest.approx([0.5, 0.1] * 4)
    eased = on_screen(timeline(FLAGS, [1.5, 0.5, 0.5, 1.5], 1, 0, boomerang=True))
    # It comes to a turning point as slowly as it leaves it.
    assert [seconds for _, seconds in eased] == pytest.approx([1.5, 1.0, 0.5, 1.0, 1.5, 1.0, 0.5, 1.0])


def test_a_closed_film_has_no_ends() -> None:
    shown = on_screen(timeline([True, False, True, False], [1.5, 0.5, 1.5, 0.5], 1, 0, closed=True))
    assert [seconds for _, seconds in shown] == pytest.approx([1.0] * 4)
    assert timeline([True, False], [1.0, 3.0], 2, 0, closed=True)[-1].way == 1.5


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
        easing_named(text)
    assert easing_named("0.42,0,0.58,1") == EASINGS["ease-in-out"]
