"""A camera that moves while the film morphs (the paper's section 5.2): zoom, pan and rotation.

Every place of the film has a camera, an affine map of the picture's plane; the first keyframe's is the identity. A
keyframe is shown through its camera. A parent at place p, seen through its camera C_p, becomes what the camera C_s of
the midpoint at s sees by the map C_s C_p^-1, applied before the two parents are diffused and blended. What a parent
does not show (a zoom out asks for more than there is) is taken from the other one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Matrix", "Motion", "is_beyond", "shown_place"]

Value = TypeVar("Value")
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Motion:
    """How the camera moves over each gap between keyframes.

    Attributes:
        zoom: the factor over a gap; 2 shows the middle quarter of the picture in the end. One number, or one a gap.
        pan: where the camera goes over a gap, in widths and heights: (1, 0) is one width to the right.
        rotate: degrees by which the picture turns clockwise over a gap.
    """

    zoom: Sequence[float] = (1.0,)
    pan: Sequence[tuple[float, float]] = ((0.0, 0.0),)
    rotate: Sequence[float] = (0.0,)

    @property
    def still(self) -> bool:
        """Whether the camera does not move."""
        return set(self.zoom) == {1.0} and set(self.rotate) == {0.0} and set(self.pan) == {(0.0, 0.0)}

    def camera(self, place: Fraction, aspect: float) -> Matrix:
        """The 3 x 3 map from what the camera shows to the first keyframe's plane.

        The plane's coordinates are those of grid sampling: the picture spans -1 to 1 in x and in y; ``aspect`` is its
        width over its height.
        """
        camera = np.eye(3)
        gap = place.numerator // place.denominator
        for index in range(gap + 1):
            share = 1.0 if index < gap else float(place - gap)
            camera = camera @ self._map_after(index, share, aspect)
        return camera

    def between(self, place: Fraction, parent: Fraction, aspect: float) -> Matrix:
        """The map from what the camera shows at a place to what it showed at a parent's place."""
        return np.linalg.solve(self.camera(parent, aspect), self.camera(place, aspect)).astype(np.float64)

    def _map_after(self, gap: int, share: float, aspect: float) -> Matrix:
        """The camera's own map after a share of a gap; zoom is even in its logarithm."""
        zoom, rotate, (x, y) = _value_of(self.zoom, gap), _value_of(self.rotate, gap), _value_of(self.pan, gap)
        scale, angle = zoom**-share, math.radians(-rotate * share)
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        # Rotation in pixels, not in the stretched coordinates of a picture that is not square.
        return np.array(
            [[cosine, -sine / aspect, 2 * x * share], [sine * aspect, cosine, 2 * y * share], [0, 0, 1]], dtype=float
        )


def is_beyond(motion: Motion, place: Fraction, aspect: float) -> bool:
    """Whether the camera at a place shows more than the picture of a keyframe there holds."""
    corners = np.array([[x, y, 1] for x in (-1, 1) for y in (-1, 1)], dtype=float)
    reached = corners @ motion.camera(place, aspect).T
    return bool((np.abs(reached[:, :2]) > 1 + 1e-6).any())


def shown_place(motion: Motion, place: Fraction, point: tuple[float, float], aspect: float) -> tuple[float, float]:
    """Where the camera at a place shows a point (x, y) of a picture, both as fractions of width and height."""
    if motion.still:
        return point
    x, y, _ = np.linalg.solve(motion.camera(place, aspect), [2 * point[0] - 1, 2 * point[1] - 1, 1.0])
    return (float(x) + 1) / 2, (float(y) + 1) / 2


def _value_of(values: Sequence[Value], gap: int) -> Value:
    """The value of a gap; the last one stands for all further gaps."""
    return values[min(gap, len(values) - 1)]
