from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageDraw

from segue.errors import SegueError
from segue.film.smooth import compensate, dissolve
from segue.method.timing import Way, timeline, way_at_rate


def way_of(ways: list[float], hold: float, fps: int, *, closed: bool = False) -> Way:
    """The way through a film with one keyframe at each end; at the first where it is closed."""
    flags = [True, *[False] * (len(ways) - 1), *([] if closed else [True])]
    return way_at_rate(timeline(flags, ways, hold, closed=closed), flags, Fraction(fps))


def moving_square(count: int, step: int, mode: str = "RGB") -> list[Image.Image]:
    """A red square that moves to the right, on white or on nothing."""
    frames = []
    for i in range(count):
        image = Image.new("RGBA", (96, 96), (255, 255, 255, 0 if mode == "RGBA" else 255))
        ImageDraw.Draw(image).rectangle((10 + step * i, 40, 30 + step * i, 60), fill="red")
        frames.append(image.convert(mode))
    return frames


def left_edge(image: Image.Image) -> int:
    """Where the square begins, in pixels."""
    return int(np.argmax(np.asarray(image)[50, :, 1] < 128))


def reds(values: list[int]) -> list[Image.Image]:
    """Plain frames."""
    return [Image.new("RGB", (4, 4), (value, 0, 0)) for value in values]


def red(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


def test_dissolves_are_the_weighted_means_of_neighbours() -> None:
    way = way_of([0.4, 0.2], 0.3, 10)
    shown = list(dissolve(reds([0, 80, 200]), way))
    assert [red(image) for image in shown] == [0, 20, 40, 60, 80, 140, 200]
    assert [count for _, count in way.runs(mixes=True)] == [4, 1, 1, 1, 1, 1, 3]


def test_what_is_transparent_lends_no_colour() -> None:
    frames = [Image.new("RGBA", (4, 4), colour) for colour in ((255, 255, 255, 0), (200, 40, 20, 255))]
    (_, middle, _) = dissolve(frames, way_of([1.0], 0.0, 2))
    assert middle.getpixel((0, 0)) == pytest.approx((200, 40, 20, 127), abs=1)


def test_a_film_that_goes_round_goes_on_to_its_first_frame() -> None:
    shown = list(dissolve(reds([0, 80, 200]), way_of([0.4, 0.4, 0.4], 0.0, 10, closed=True)))
    assert [red(image) for image in shown[-4:]] == [200, 150, 100, 50]
    film = moving_square(4, 8)
    there_and_back = film + film[2:0:-1]
    edges = [left_edge(image) for image in compensate(there_and_back, way_of([0.1] * 6, 0.0, 40, closed=True))]
    assert len(edges) == 24
    assert edges == pytest.approx([*range(10, 34, 2), *range(34, 10, -2)], abs=4)  # on to the first frame


def test_a_frame_that_stands_stands() -> None:
    way = way_of([0.1] * 3, 0.5, 40)
    edges = [left_edge(image) for image in compensate(moving_square(4, 8), way)]
    counts = [count for _, count in way.runs(mixes=True)]
    assert len(edges) == len(counts)
    assert (counts[0], counts[-1], edges[0], edges[-1]) == (21, 20, 10, 34)
    assert max(b - a for a, b in zip(edges, edges[1:], strict=False)) <= 4


def test_motion_is_followed() -> None:
    shown = list(compensate(moving_square(6, 8), way_of([0.1] * 5, 0.0, 40)))
    # The square moves by a quarter of a step in each picture, where a dissolve shows two.
    assert [left_edge(image) for image in shown] == pytest.approx([10, *range(12, 51, 2)], abs=2)
    assert [left_edge(image) for image in shown[2:]] == pytest.approx(list(range(14, 51, 2)), abs=1)
    for image, frame in zip(shown[::4], moving_square(6, 8), strict=True):
        assert (np.asarray(image) == np.asarray(frame)).all()


def test_transparency_moves_along() -> None:
    frames = moving_square(6, 8, "RGBA")
    shown = list(compensate(frames, way_of([0.1] * 5, 0.0, 40)))
    for number in (5, 6, 7, 9):
        alpha = np.asarray(shown[number])[50, :, 3] > 128
        assert int(np.argmax(alpha)) == pytest.approx(10 + 2 * number, abs=1)
        assert alpha.sum() == pytest.approx(21, abs=2)
        inside = np.asarray(shown[number])[45:56, 13 + 2 * number : 28 + 2 * number, :3]
        assert abs(inside.astype(int) - (255, 0, 0)).max() < 40


def test_frames_that_are_too_small_to_follow_are_named() -> None:
    small = [Image.new("RGB", (64, 30))] * 2
    with pytest.raises(SegueError, match="32 x 32 pixels or more, not 64 x 30"):
        list(compensate(small, way_of([0.1], 0.0, 24)))
