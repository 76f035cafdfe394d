"""Places that correspond in neighbouring keyframes: read from a user's file, or the keypoints that two poses share.

The file is JSON with a list for each gap between keyframes, of pairs of places [[x, y], [x, y]], the first in the
picture before the gap, the second in the one behind it; x and y are fractions of the pictures' width and height as they
were given. For one gap, with two pairs:

    [[[[0.31, 0.42], [0.35, 0.40]], [[0.68, 0.42], [0.66, 0.41]]]]
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from segue.errors import SegueError
from segue.method.motion import Motion, shown_place
from segue.pictures.images import Fit, placement
from segue.pose.keypoints import Pose
from segue.pose.matching import match

if TYPE_CHECKING:
    from segue.method.align import Match

__all__ = ["points_of_gaps", "read_points", "shared_keypoints"]

_POINTS = TypeAdapter(list[list[tuple[tuple[float, float], tuple[float, float]]]])


def points_of_gaps(path: Path, gaps: int) -> "list[list[Match]]":
    """The matches of each gap as the file has them.

    Raises:
        SegueError: the file cannot be read, is of another form, or is for another number of gaps.
    """
    try:
        found = _POINTS.validate_json(path.read_bytes())
    except OSError as error:
        raise SegueError(f"points: {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise SegueError(f"points: {path} is not a list of gaps, each a list of [[x, y], [x, y]]") from error
    if len(found) != gaps:
        raise SegueError(f"points: {path} is for {len(found)} gaps, the film has {gaps}")
    return found


def read_points(
    path: Path, given: Sequence[tuple[int, int]], size: tuple[int, int], how: Fit, motion: Motion
) -> "list[list[Match]]":
    """The matches of each gap in fractions of the film's picture.

    Args:
        path: the file.
        given: (width, height) of each keyframe as it was given; the first one again where the film is a loop.
        size: (width, height) of the film.
        how: how the keyframes are fitted to it.
        motion: how the camera moves, through which the keyframes are shown.

    Raises:
        SegueError: the file cannot be read, is of another form, is for another number of gaps, or a place lies outside
            a picture, or outside what the film shows of it.
    """
    gaps = points_of_gaps(path, len(given) - 1)
    placed: list[list[Match]] = []
    for gap, matches in enumerate(gaps):
        pair = []
        for places in matches:
            moved = []
            for i, (x, y), source in zip((gap, gap + 1), places, given[gap : gap + 2], strict=True):
                to = placement(source, size, how)(x * source[0], y * source[1])
                at = shown_place(motion, Fraction(i), (to[0] / size[0], to[1] / size[1]), size[0] / size[1])
                if not all(0 <= number <= 1 for number in (x, y, *at)):
                    where = "outside the picture" if not (0 <= x <= 1 and 0 <= y <= 1) else "where the film is cropped"
                    raise SegueError(f"points: {path}: [{x:g}, {y:g}] of gap {gap + 1} lies {where}")
                moved.append(at)
            pair.append((moved[0], moved[1]))
        placed.append(pair)
    return placed


def shared_keypoints(left: Pose | None, right: Pose | None) -> "list[Match]":
    """The keypoints that matched people of two poses share, in fractions of the pictures."""
    if left is None or right is None:
        return []
    found: list[Match] = []
    for i, j in match(left, right):
        one, other = left.people[i], right.people[j]
        for point in (one.visible & other.visible).nonzero()[0]:
            places = [
                (float(person.points[point, 0] / pose.width), float(person.points[point, 1] / pose.height))
                for person, pose in ((one, left), (other, right))
            ]
            if all(0 <= number <= 1 for place in places for number in place):
                found.append((places[0], places[1]))
    return found
