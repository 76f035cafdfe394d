import pytest

from segue.errors import SegueError
from segue.timing import EASINGS, Bezier, easing_named, screen_times


def test_equal_steps_are_shown_for_equal_times_but_half_at_the_ends() -> None:
    assert screen_times([1, 1, 1, 1], EASINGS["linear"]) == pytest.approx([1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8])


def test_the_speed_of_an_even_film_is_constant() -> None:
    distances = [0.1, 0.5, 0.2, 0.9, 0.3]
    shares = screen_times(distances, EASINGS["linear"])
    # Frame i and i + 1 stand at times whose middle is the edge between them: rebuild the times from the edges.
    edges = [sum(shares[: i + 1]) for i in range(len(shares) - 1)]
    times = [0.0]
    for edge in edges:
        times.append(2 * edge - times[-1])
    speeds = [far / (b - a) for far, a, b in zip(distances, times, times[1:], strict=False)]
    assert speeds == pytest.approx([sum(distances)] * 5, rel=1e-6)
    assert sum(shares) == pytest.approx(1)


def test_nothing_moves() -> None:
    assert screen_times([0, 0], EASINGS["linear"]) == screen_times([1, 1], EASINGS["linear"])


def test_ease_in_out_shows_the_ends_for_longer() -> None:
    shares = screen_times([1] * 8, EASINGS["ease-in-out"])
    assert shares == pytest.approx(shares[::-1])
    assert shares[1] > 1 / 8 > shares[4]


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
