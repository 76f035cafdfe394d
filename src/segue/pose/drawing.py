"""Skeletons as pictures, pixel by pixel as the checkpoints saw them in training.

A ControlNet for poses was trained on the pictures of one drawer. All of them paint 17 limbs as filled ellipses and 18
discs, in colours of the rainbow on black, without anti-aliasing, at integer places. They differ in order and width:

- `controlnet1.0`: first all discs, then each limb mixed into the picture (0.4 of what is there, 0.6 of the colour).
  The first ControlNets, and the one for Stable Diffusion 2.1 in the runs that the paper's authors released.
- `controlnet1.1`: first the limbs of a person, filled with 0.6 of their colour, then the discs. The annotators of
  ControlNet 1.1, and most checkpoints since.
- `thick`: the order of 1.1, all widths times 1 below 500 pixels (the longer side), 2 below 1000, and one more for
  every further 1000 pixels, at most 7. The rule of the model card of xinsir/controlnet-openpose-sdxl-1.0
  (https://huggingface.co/xinsir/controlnet-openpose-sdxl-1.0).

The drawers use OpenCV's `ellipse2Poly`, `fillConvexPoly` and `circle`; what these set is reproduced here with numpy.
"""

from collections.abc import Iterator
from functools import cache
from math import atan2, degrees, hypot
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segue.errors import SegueError
from segue.pose.keypoints import Person, Pose

__all__ = ["COLORS", "CONVENTIONS", "LIMBS", "Convention", "convention_for", "draw"]

Convention = Literal["controlnet1.0", "controlnet1.1", "thick"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)

LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
"""Pairs of keypoints, in the order in which they are drawn; limb i has colour i."""

COLORS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255),
    (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
"""RGB of the keypoints; the first 17 are also the limbs'."""

_RADIUS = 4  # of the discs, and half the width of the limbs, in pixels

Canvas = NDArray[np.uint8]  # (height, width, 3)


def draw(pose: Pose, convention: Convention = "controlnet1.1") -> Image.Image:
    """Paint the skeletons of a pose on black, in the picture's size.

    A limb is drawn where both its keypoints are there. Keypoints may lie outside the picture.

    Args:
        pose: the people.
        convention: the drawer that the ControlNet was trained with; see ``convention_for``.

    Returns:
        an RGB picture.

    Raises:
        SegueError: an unknown convention.
    """
    if convention not in CONVENTIONS:
        raise SegueError(f"control_convention {convention!r} is unknown; choose from {', '.join(CONVENTIONS)}")
    canvas: Canvas = np.zeros((pose.height, pose.width, 3), dtype=np.uint8)
    if convention == "controlnet1.0":
        _draw_mixed(canvas, pose.people)
    else:
        radius = _RADIUS * (_thickness(*pose.size) if convention == "thick" else 1)
        _draw_filled(canvas, pose.people, radius)
    return Image.fromarray(canvas)


def convention_for(controlnet: str) -> Convention:
    """The convention that a ControlNet was trained with, by its name or path.

    The names of the first ControlNets (`lllyasviel/sd-controlnet-openpose`, `control_sd15_openpose`) and of the paper's
    (`thibaud/controlnet-sd21-openpose`) stand for 1.0, xinsir's for `thick`, and everything else for 1.1.
    """
    name = controlnet.lower()
    if "xinsir" in name or ("openpose-sdxl-1.0" in name and "thibaud" not in name):
        return "thick"
    if "openpose" in name and any(part in name for part in ("sd-controlnet", "control_sd15", "sd21")):
        return "controlnet1.0"
    return "controlnet1.1"


def _thickness(width: int, height: int) -> int:
    side = max(width, height)
    return 1 if side < 500 else min(2 + side // 1000, 7)


def _draw_mixed(canvas: Canvas, people: tuple[Person, ...]) -> None:
    """Discs, then limbs mixed in; limb by limb, each for all people."""
    for keypoint, color in enumerate(COLORS):
        for person in people:
            if person.visible[keypoint]:
                _fill(canvas, _disc(person, keypoint, _RADIUS), color)
    for limb, color in zip(LIMBS, COLORS, strict=False):
        for person in people:
            if person.visible[list(limb)].all():
                _fill(canvas, _ellipse(person, limb, _RADIUS), color, share=0.6)


def _draw_filled(canvas: Canvas, people: tuple[Person, ...], radius: int) -> None:
    """Limbs with 0.6 of their colour, then discs; person by person."""
    for person in people:
        for limb, (red, green, blue) in zip(LIMBS, COLORS, strict=False):
            if person.visible[list(limb)].all():
                _fill(canvas, _ellipse(person, limb, radius), (int(red * 0.6), int(green * 0.6), int(blue * 0.6)))
        for keypoint, color in enumerate(COLORS):
            if person.visible[keypoint]:
                _fill(canvas, _disc(person, keypoint, radius), color)


Rows = Iterator[tuple[int, int, int]]  # y, first x, last x


def _fill(canvas: Canvas, rows: Rows, color: tuple[int, int, int], share: float = 1.0) -> None:
    """Paint rows of pixels, as far as they are in the picture; `share` of the colour, the rest of what is there."""
    height, width, _ = canvas.shape
    for y, left, right in rows:
        if 0 <= y < height and right >= 0 and left < width:
            row = canvas[y, max(left, 0) : right + 1]
            row[:] = np.rint((1 - share) * row + share * np.array(color))


def _disc(person: Person, keypoint: int, radius: int) -> Rows:
    """The rows of a disc around the integer part of a keypoint, by the midpoint circle algorithm."""
    centre_x, centre_y = int(person.points[keypoint, 0]), int(person.points[keypoint, 1])
    for offset, half in _half_widths(radius).items():
        yield centre_y + offset, centre_x - half, centre_x + half


@cache
def _half_widths(radius: int) -> dict[int, int]:
    """For each row of a disc, from its middle, how far it reaches to both sides."""
    widths: dict[int, int] = {}
    a, b, error = radius, 0, 0  # a point of the eighth of the circle that starts at (radius, 0)
    while a >= b:
        for offset, half in ((b, a), (a, b)):
            for row in (offset, -offset):
                widths[row] = max(widths.get(row, 0), half)
        error += 2 * b + 1
        b += 1
        if error > 0:
            error -= 2 * a - 1
            a -= 1
    return widths


def _ellipse(person: Person, limb: tuple[int, int], radius: int) -> Rows:
    """The rows of the filled ellipse over a limb: half its length long, `radius` wide to both sides."""
    (x0, y0), (x1, y1) = person.points[list(limb), :2]
    centre = int((x0 + x1) / 2), int((y0 + y1) / 2)
    angle = int(degrees(atan2(y0 - y1, x0 - x1)))
    corners = _corners(centre, (int(hypot(x0 - x1, y0 - y1) / 2), radius), angle)
    yield from _rows(corners)


_SINES = np.sin(np.radians(np.arange(451))).round(7)  # OpenCV's table has seven digits, of whole degrees


def _corners(centre: tuple[int, int], axes: tuple[int, int], angle: int) -> NDArray[np.int64]:
    """The ellipse as a polygon with a corner at every degree, rounded to pixels, (n, 2) of (x, y)."""
    angle %= 360
    cosine, sine = _SINES[450 - angle], _SINES[angle]
    x, y = axes[0] * _SINES[450:89:-1], axes[1] * _SINES[:361]
    points = np.stack([centre[0] + x * cosine - y * sine, centre[1] + x * sine + y * cosine], axis=1)
    corners: NDArray[np.int64] = np.rint(points).astype(np.int64)
    changed: NDArray[np.bool_] = (np.diff(corners, axis=0, prepend=corners[:1] - 1) != 0).any(axis=1)
    return np.asarray(corners[changed])


def _rows(corners: NDArray[np.int64]) -> Rows:
    """The rows of a filled convex polygon: in each from the first to the last pixel of its outline and its edges."""
    spans: dict[int, tuple[int, int]] = {}
    for start, stop in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True):
        for x, y in (*_line(*start, *stop), *_edge(*start, *stop)):
            left, right = spans.get(y, (x, x))
            spans[y] = min(left, x), max(right, x)
    for y, (left, right) in spans.items():
        yield y, left, right


def _edge(x0: int, y0: int, x1: int, y1: int) -> Iterator[tuple[int, int]]:
    """Where an edge crosses the rows from its upper end to above its lower end, in 16-bit fixed point, rounded."""
    if y0 > y1:
        x0, y0, x1, y1 = x1, y1, x0, y0
    height = y1 - y0
    if height:
        doubled = 2 * ((x1 - x0) << 16) + height
        slope = abs(doubled) // (2 * height) * (1 if doubled >= 0 else -1)
        for row in range(height):
            yield ((x0 << 16) + slope * row + (1 << 15)) >> 16, y0 + row


def _line(x0: int, y0: int, x1: int, y1: int) -> Iterator[tuple[int, int]]:
    """The pixels of a line by Bresenham's algorithm, always from left to right as OpenCV draws it."""
    if x0 > x1:
        x0, y0, x1, y1 = x1, y1, x0, y0
    across, down, step = x1 - x0, abs(y1 - y0), 1 if y1 >= y0 else -1
    longer, shorter = max(across, down), min(across, down)
    error, x, y = longer - 2 * shorter, x0, y0
    yield x, y
    for _ in range(longer):
        aside = error < 0
        error += 2 * longer * aside - 2 * shorter
        x += 1 if across >= down else int(aside)
        y += step if down > across else step * int(aside)
        yield x, y
