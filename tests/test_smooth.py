import numpy as np
import pytest
from PIL import Image, ImageDraw

from segue.errors import SegueError
from segue.smooth import Shown, compensated, dissolved


def moving(count: int, step: int) -> list[Shown]:
    """A red square that moves to the right."""
    frames = []
    for i in range(count):
        image = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(image).rectangle((10 + step * i, 40, 30 + step * i, 60), fill="red")
        frames.append(Shown(image, 0.0, 0.1 if i < count - 1 else 0.0))
    return frames


def left_edge(image: Image.Image) -> int:
    """Where the square begins, in pixels."""
    return int(np.argmax(np.asarray(image)[50, :, 1] < 128))


def red(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


def reds(values: list[int], stills: list[float], ways: list[float]) -> list[Shown]:
    """Plain frames."""
    images = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in values]
    return [Shown(image, still, way) for image, still, way in zip(images, stills, ways, strict=True)]


def test_dissolves_are_the_weighted_means_of_neighbours() -> None:
    shown = list(dissolved(reds([0, 80, 200], [0.5, 0.0, 0.3], [0.4, 0.2, 0.0]), 3))
    assert [red(image) for image, _ in shown] == [0, 20, 40, 60, 80, 110, 140, 170, 200]
    assert [seconds for _, seconds in shown] == pytest.approx([0.6, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.3])


def test_a_film_that_goes_round_goes_on_to_its_first_frame() -> None:
    shown = list(dissolved(reds([0, 80, 200], [0.5, 0.0, 0.0], [0.4, 0.4, 0.4]), 3))
    assert [red(image) for image, _ in shown[-4:]] == [200, 150, 100, 50]
    assert sum(seconds for _, seconds in shown) == pytest.approx(1.7)
    film = moving(4, 8)
    there_and_back = [frame._replace(way=0.1) for frame in film + film[2:0:-1]]
    edges = [left_edge(image) for image, _ in compensated(there_and_back, 40)]
    assert len(edges) == 24
    assert edges == pytest.approx([*range(10, 34, 2), *range(34, 10, -2)], abs=4)  # on to the first frame


def test_a_frame_that_stands_stands() -> None:
    film = moving(4, 8)
    film[0] = film[0]._replace(still=0.5)
    edges = [left_edge(image) for image, _ in compensated(film, 40)]
    assert len(edges) == round(40 * 0.8)
    assert set(edges[:20]) == {10}
    assert max(b - a for a, b in zip(edges, edges[1:], strict=False)) <= 4


def test_motion_is_followed() -> None:
    shown = list(compensated(moving(6, 8), 40))
    assert len(shown) == 20
    assert sum(seconds for _, seconds in shown) == pytest.approx(0.5)
    # From the second interval on the square moves by a quarter of a step in each picture, where a dissolve shows two.
    assert [left_edge(image) for image, _ in shown[5:20]] == pytest.approx(list(range(20, 50, 2)), abs=1)


def test_frames_that_are_too_small_to_follow_are_named() -> None:
    small = [Shown(Image.new("RGB", (64, 30)), 0.0, 0.1)] * 2
    with pytest.raises(SegueError, match="32 x 32 pixels or more, not 64 x 30"):
        list(compensated(small, 24))


def test_one_frame_and_none() -> None:
    one = [moving(1, 0)[0]._replace(still=0.1)]
    assert [seconds for _, seconds in dissolved(one, 3)] == [0.1]
    assert len(list(compensated(one, 20))) == 2
    assert list(compensated([], 20)) == list(dissolved([], 2)) == []
