"""People as OpenPose keypoints, and the JSON files of OpenPose and of pose editors.

A person is 18 keypoints in OpenPose's COCO order, each (x, y, confidence): pixels from the upper left corner of the
picture, x to the right, y downwards; confidence 0 means that the keypoint is not there. "Right" and "left" are the
person's own. The files are those that OpenPose writes (https://github.com/CMU-Perceptual-Computing-Lab/openpose,
doc/02_output.md), with the picture's size in `canvas_width` and `canvas_height`, as pose editors write it. Those of
openpose-editor (https://github.com/fkunn1326/openpose-editor), `width`, `height` and `keypoints`, are read too.
"""

import json
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segue.errors import SegueError, warn
from segue.files import write_text
from segue.method.motion import Motion
from segue.pictures.images import Fit, placement

__all__ = ["KEYPOINTS", "NECK", "Person", "Pose", "as_openpose", "fit_pose", "from_openpose", "scale_pose", "view_pose"]

KEYPOINTS = (
    "nose",
    "neck",
    "right shoulder",
    "right elbow",
    "right wrist",
    "left shoulder",
    "left elbow",
    "left wrist",
    "right hip",
    "right knee",
    "right ankle",
    "left hip",
    "left knee",
    "left ankle",
    "right eye",
    "left eye",
    "right ear",
    "left ear",
)
NECK = 1

# Where OpenPose's BODY_25 order has the 18 keypoints (it adds the middle of the hips and six points of the feet).
_BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
_LONGEST_SIDE = 65_535


@dataclass(frozen=True, eq=False)
class Person:
    """One person.

    Attributes:
        points: (18, 3) float64, read-only: x, y in pixels and confidence from 0 (not there) to 1, in the order of
            KEYPOINTS. Keypoints may lie outside the picture, where a picture was cropped.

    Raises:
        ValueError: another shape, or a number that is not finite.
    """

    points: NDArray[np.float64]

    def __post_init__(self) -> None:
        points = np.array(self.points, dtype=np.float64)  # a copy, so that nobody else can write into it
        if points.shape != (len(KEYPOINTS), 3) or not np.isfinite(points).all():
            raise ValueError(f"a person is {len(KEYPOINTS)} finite (x, y, confidence), not an array {points.shape}")
        points[points[:, 2] <= 0] = 0
        points[:, 2] = points[:, 2].clip(max=1)
        points.setflags(write=False)
        object.__setattr__(self, "points", points)

    @classmethod
    def of(cls, points: ArrayLike) -> "Person":
        """A person from anything with 18 rows (x, y, confidence), a missing row being (0, 0, 0)."""
        return cls(np.asarray(points, dtype=np.float64))

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Which of the 18 keypoints are there, (18,)."""
        return self.points[:, 2] > 0

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the keypoints that are there; zeros when none is."""
        seen = self.points[self.visible, :2]
        if not len(seen):
            return 0.0, 0.0, 0.0, 0.0
        (left, top), (right, bottom) = seen.min(axis=0), seen.max(axis=0)
        return float(left), float(top), float(right), float(bottom)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Person) and np.array_equal(self.points, other.points)

    def __hash__(self) -> int:
        return hash(self.points.tobytes())


@dataclass(frozen=True)
class Pose:
    """The people of a picture.

    Attributes:
        people: in the order of the file or the detector; none when nobody is there.
        width: of the picture that the keypoints are in, in pixels; height: likewise.
    """

    people: tuple[Person, ...]
    width: int
    height: int

    def __post_init__(self) -> None:
        if not (0 < self.width <= _LONGEST_SIDE and 0 < self.height <= _LONGEST_SIDE):
            raise ValueError(f"a picture is 1 to {_LONGEST_SIDE} pixels wide and high, not {self.width}x{self.height}")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as Pillow orders them."""
        return self.width, self.height

    @classmethod
    def load(cls, path: str | PathLike[str], size: tuple[int, int] | None = None) -> "Pose":
        """Read a JSON file of OpenPose or of a pose editor.

        People with 25 keypoints (BODY_25) are reduced to the 18; a list of one frame is that frame; coordinates are
        fractions of the picture where those of most keypoints are below 2. People without any keypoint are left out,
        and keypoints outside the picture with a warning; in a file that says `"cropped": true` they may lie around it.

        Args:
            path: the file.
            size: width and height of the picture, for files that hold no size; a size in the file wins.

        Raises:
            SegueError: no such file, not JSON, or not such a pose; the message names the place of the fault.
        """
        try:
            content = json.loads(Path(path).read_bytes().removeprefix(BOM_UTF8))
        except OSError as error:
            raise SegueError(f"{path}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise SegueError(f"{path} is not a JSON file: {_one_line(error)}") from error
        return from_openpose(content, str(path), size)

    def save(self, path: str | Path) -> None:
        """Write an OpenPose JSON file, atomically; ``load`` gives the same pose again.

        Raises:
            SegueError: the file cannot be written.
        """
        write_text(Path(path), json.dumps(as_openpose(self)) + "\n")


def from_openpose(content: object, name: str, size: tuple[int, int] | None = None) -> Pose:
    """The pose that an OpenPose file's content stands for; see ``Pose.load``.

    Args:
        content: what was read from JSON.
        name: the file's name, for messages.
        size: width and height for content without them.

    Raises:
        SegueError: not such a pose.
    """
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    people = _people(content, name)
    assert isinstance(content, dict)
    width, height = _canvas(content, name, size)
    numbers = [_numbers(person, f"{name}: person {i}") for i, person in enumerate(people, start=1)]
    if _is_in_fractions(numbers, width, height):
        numbers = [points * (width, height, 1) for points in numbers]
    _drop_outside(numbers, width, height, name, _LONGEST_SIDE if content.get("cropped") is True else 0)
    return Pose(tuple(Person(points) for points in numbers if (points[:, 2] > 0).any()), width, height)


def as_openpose(pose: Pose) -> dict[str, Any]:
    """The content of an OpenPose file; one with keypoints outside the picture says `"cropped": true`."""
    people = [
        {"person_id": [-1], "pose_keypoints_2d": [float(number) for number in person.points.ravel()]}
        for person in pose.people
    ]
    content = {"version": 1.3, "canvas_width": pose.width, "canvas_height": pose.height, "people": people}
    if any(_outside(person.points, *pose.size).any() for person in pose.people):
        content["cropped"] = True
    return content


def fit_pose(pose: Pose, size: tuple[int, int], fit: Fit = "cover") -> Pose:
    """Move the keypoints as a picture's content moves when the picture is fitted to a size.

    Args:
        pose: in the picture as it was.
        size: width and height of the fitted picture.
        fit: how the picture is fitted; see ``segue.pictures.images.placement``.
    """
    place = placement(pose.size, size, fit)
    people = []
    for person in pose.people:
        points = person.points.copy()
        points[:, :2] = points[:, :2] * place.scale + place.offset
        people.append(Person(points))
    return Pose(tuple(people), *size)


def scale_pose(pose: Pose, size: tuple[int, int]) -> Pose:
    """The same pose in a picture of another size, each direction scaled on its own."""
    return fit_pose(pose, size, "stretch")


def _people(content: object, name: str) -> list[object]:
    """The list of keypoints of each person."""
    if isinstance(content, dict):
        people, points = content.get("people"), content.get("keypoints")
        if isinstance(people, list):
            return [person.get("pose_keypoints_2d") if isinstance(person, dict) else None for person in people]
        if isinstance(points, list):
            if all(isinstance(point, list) and point and isinstance(point[0], list) for point in points):
                return list(points)
            count = len(KEYPOINTS)
            return [points[i : i + count] for i in range(0, len(points), count)]  # one person after the other
    raise SegueError(
        f'{name} is not an OpenPose file: it needs a list "people" with "pose_keypoints_2d" in each, or "keypoints"'
    )


def _canvas(content: Mapping[str, Any], name: str, size: tuple[int, int] | None) -> tuple[int, int]:
    sides = []
    for short, given in (("width", size and size[0]), ("height", size and size[1])):
        key = f"canvas_{short}" if f"canvas_{short}" in content or short not in content else short
        side = content.get(key)
        if side is None:
            side = given
        if side is None:
            raise SegueError(f'{name}: "{key}" is missing: the picture\'s size in pixels')
        whole = isinstance(side, int | float) and not isinstance(side, bool) and side == side // 1
        if not whole or not 0 < side <= _LONGEST_SIDE:
            raise SegueError(f'{name}: "{key}" is {_shorten(side)}; it is a whole number from 1 to {_LONGEST_SIDE}')
        sides.append(int(side))
    return sides[0], sides[1]


def _numbers(points: object, where: str) -> NDArray[np.float64]:
    """The 18 keypoints of one person, (18, 3), finite; those that are not there are zeros.

    They are numbers in one list, or (x, y) or (x, y, confidence) for each; without a confidence, a keypoint at (0, 0),
    or left of or above the picture, is not there.
    """
    if not isinstance(points, list):
        raise SegueError(f'{where} has no list "pose_keypoints_2d"')
    flat: list[object] = list(points)
    if points and all(isinstance(point, list) and len(point) in (2, 3) for point in points):
        flat = [
            number for point in points for number in (point if len(point) == 3 else [*point, _confidence_of(point)])
        ]
    orders: dict[int, Sequence[int]] = {3 * len(KEYPOINTS): range(len(KEYPOINTS)), 75: _BODY_25}
    if len(flat) not in orders:
        raise SegueError(
            f"{where}: {len(flat)} numbers, but 18 keypoints are 54 numbers (x, y, confidence), and BODY_25 has 75"
        )
    numbers = np.zeros((len(KEYPOINTS), 3))
    for row, keypoint in enumerate(orders[len(flat)]):
        for column, what in enumerate(("x", "y", "the confidence")):
            numbers[row, column] = _number(flat[3 * keypoint + column], f"{_place(where, row)}: {what}")
        if numbers[row, 2] < 0:
            raise SegueError(f"{_place(where, row)}: the confidence is {numbers[row, 2]:g}; it is 0 or more")
    numbers[numbers[:, 2] == 0] = 0
    return numbers


def _confidence_of(point: Sequence[object]) -> float:
    """The confidence of a keypoint that has none."""
    numbers = [number for number in point if isinstance(number, int | float)]
    return float(any(numbers) and min(numbers) >= 0) if len(numbers) == 2 else 1.0


def _number(value: object, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = float("inf")
        if isfinite(number):
            return number
        value = "NaN" if number != number else "infinite"
        raise SegueError(f"{where} is {value}; it is a finite number")
    raise SegueError(f"{where} is {_shorten(value)}; it is a number")


def _is_in_fractions(people: Sequence[NDArray[np.float64]], width: int, height: int) -> bool:
    """Whether the keypoints are fractions of the picture: most are below 2, too near each other to be pixels."""
    if min(width, height) <= 4 or not people:
        return False
    seen = np.concatenate(people)
    seen = np.abs(seen[seen[:, 2] > 0, :2]).max(axis=1)
    return bool(len(seen)) and bool((seen < 2).mean() > 0.5)


def _drop_outside(people: Sequence[NDArray[np.float64]], width: int, height: int, name: str, margin: int) -> None:
    """Take away the keypoints outside the picture, and say in one line which."""
    lost = []
    for number, points in enumerate(people, start=1):
        outside = _outside(points, width, height, margin)
        lost += [
            f"person {number}'s {KEYPOINTS[i]} at ({points[i, 0]:g}, {points[i, 1]:g})" for i in outside.nonzero()[0]
        ]
        points[outside] = 0
    if lost:
        shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        warn(f"{name}: outside the picture of {width}x{height}, and left out: {shown}")


def _outside(points: NDArray[np.float64], width: int, height: int, margin: int = 0) -> NDArray[np.bool_]:
    """Which keypoints lie farther than a margin outside the picture, (18,); missing ones, all zeros, do not."""
    x, y, _ = points.T
    return np.asarray((x < -margin) | (x > width + margin) | (y < -margin) | (y > height + margin))


def _place(where: str, row: int) -> str:
    return f"{where}, keypoint {row} '{KEYPOINTS[row]}'"


def _shorten(value: object) -> str:
    """A wrong value, short enough for one line."""
    text = json.dumps(value) if not isinstance(value, int) or abs(value) < 10**12 else "too large"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def view_pose(motion: Motion, place: Fraction, pose: Pose) -> Pose:
    """The people of a picture as the camera at a place shows them; some may then be around the picture."""
    camera = np.linalg.inv(motion.camera(place, pose.width / pose.height))
    people = []
    for person in pose.people:
        points = person.points.copy()
        plane = np.column_stack([2 * points[:, :2] / pose.size - 1, np.ones(len(points))])  # -1 to 1 over the picture
        points[:, :2] = ((plane @ camera.T)[:, :2] + 1) / 2 * pose.size
        people.append(Person(points))
    return Pose(tuple(people), *pose.size)
