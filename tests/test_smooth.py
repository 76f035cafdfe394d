import numpy as np
import pytest
from PIL import Image, ImageDraw

from segue.smooth import compensated, dissolved


def moving(count: int, step: int) -> list[tuple[Image.Image, float]]:
    """A red square that moves to the right."""
    frames = []
    for i in range(count):
        image = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(image).rectangle((10 + step * i, 40, 30 + step * i, 60), fill="red")
        frames.append((image, 0.1))
    return frames


def left_edge(image: Image.Image) -> int:
    """Where the square begins, in pixels."""
    return int(np.argmax(np.asarray(image)[50, :, 1] < 128))


def test_dissolves_are_the_weighted_means_of_neighbours() -> None:
    colours = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (0, 80, 200)]
    shown = list(dissolved(zip(colours, (0.4, 0.2, 1.0), strict=True), 3))
    assert [image.getpixel((0, 0))[0] for image, _ in shown] == [0, 20, 40, 60, 80, 110, 140, 170, 200]  # type: ignore[index]
    assert [seconds for _, seconds in shown] == pytest.approx([0.1] * 4 + [0.05] * 4 + [1.0])


def test_motion_is_followed() -> None:
    frames = moving(6, 8)
    shown = list(compensated(frames, 40))
    assert len(shown) == 24
    assert sum(seconds for _, seconds in shown) == pytest.approx(0.6)
    # From the second interval on the square moves by a quarter of a step in each picture, where a dissolve shows two.
    assert [left_edge(image) for image, _ in shown[5:20]] == pytest.approx(list(range(20, 50, 2)), abs=1)


def test_one_frame_and_none() -> None:
    one = moving(1, 0)
    assert [seconds for _, seconds in dissolved(one, 3)] == [0.1]
    assert len(list(compensated(one, 20))) == 2
    assert list(compensated([], 20)) == list(dissolved([], 2)) == []
