"""Which person of one picture is which of another, and whether a pair of pictures can be guided by poses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segue.errors import SegueError
from segue.pose.keypoints import Person, Pose

__all__ = ["MATCHINGS", "Guidance", "Matching", "guidance", "match", "smallest_total"]

Matching = Literal["largest", "left-to-right", "nearest"]
MATCHINGS: tuple[Matching, ...] = get_args(Matching)

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Guidance:
    """Who of two pictures is guided.

    Attributes:
        pairs: the numbers of the people in the two pictures, from 0; none when nobody is guided.
        message: one line when somebody is there who is not guided, else None.
    """

    pairs: Pairs
    message: str | None = None


def match(left: Pose, right: Pose, matching: Matching = "largest") -> Pairs:
    """Pair the people of two pictures, as many as the one with fewer people has.

    Args:
        left: the people of one picture.
        right: those of another, fitted to the same size.
        matching: `largest` pairs the largest with the largest and so on, by the area around their keypoints;
            `left-to-right` pairs them as they stand; `nearest` gives the smallest sum of their distances, where the
            distance of two people is the mean distance of the keypoints that both have.

    Returns:
        the people's numbers in both pictures, sorted.

    Raises:
        SegueError: an unknown matching.
    """
    ranks: dict[str, Callable[[Person], float]] = {"largest": lambda person: -_area(person), "left-to-right": _middle}
    if matching in ranks:
        return tuple(sorted(zip(_rank(left, ranks[matching]), _rank(right, ranks[matching]), strict=False)))
    if matching == "nearest":
        return smallest_total(_distances(left, right))
    raise SegueError(f"pose_matching {matching!r} is unknown; choose from {', '.join(MATCHINGS)}")


def guidance(
    left: Pose | None,
    right: Pose | None,
    matching: Matching = "largest",
    *,
    given: bool = False,
    names: tuple[str, str] = ("the first picture", "the second picture"),
) -> Guidance:
    """Decide who is guided between two pictures.

    Nobody in both: nobody, silently. Somebody in one only, or no keypoints that both have: nobody, and one line says
    so. Different numbers of people: the matched ones, and one line says how many are not.

    Args:
        left: the people of one picture; None is nobody.
        right: those of another, fitted to the same size.
        matching: see ``match``.
        given: the poses are the user's own files: all that would leave somebody unguided is an error.
        names: what the two pictures are called in the message.

    Raises:
        SegueError: `given`, and not everybody is guided, or nobody is there.
    """
    counts = [len(pose.people) if pose else 0 for pose in (left, right)]
    pairs: Pairs = ()
    if left and right:
        pairs = tuple(
            (i, j) for i, j in match(left, right, matching) if _shared_keypoints(left.people[i], right.people[j]).any()
        )
    message = _message(pairs, counts, names)
    if given and (message or not pairs):
        raise SegueError(message or f"pose: nobody was found in {names[0]} and {names[1]}; leave out --pose")
    return Guidance(pairs, message if pairs or not message else f"{message}: made without poses between them")


def smallest_total(costs: NDArray[np.float64]) -> Pairs:
    """The assignment of rows to columns with the smallest sum, as many pairs as the shorter side has.

    The Hungarian method with shortest augmenting paths: Kuhn, The Hungarian method for the assignment problem, 1955;
    Jonker and Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems, 1987.

    Args:
        costs: (rows, columns), finite.

    Returns:
        pairs of row and column, sorted.
    """
    rows, columns = costs.shape
    if rows > columns:
        return tuple(sorted((row, column) for column, row in smallest_total(costs.T)))
    row_of = np.full(columns, -1)  # the row that each column is assigned to
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    for start in range(rows):
        # Dijkstra from the new row over reduced costs to the nearest column that is free.
        distance, before = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, bool)
        row, reached, column = start, 0.0, -1
        while row >= 0:
            onward = reached + costs[row] - row_price[row] - column_price
            shorter = ~done & (onward < distance)
            distance[shorter], before[shorter] = onward[shorter], column
            column = int(np.where(done, np.inf, distance).argmin())
            reached, done[column], row = float(distance[column]), True, int(row_of[column])
        final = done & (row_of >= 0)
        row_price[start] += reached
        row_price[row_of[final]] += reached - distance[final]
        column_price[done] -= reached - distance[done]
        while before[column] >= 0:  # the columns on the path hand their rows on
            row_of[column] = row_of[before[column]]
            column = int(before[column])
        row_of[column] = start
    return tuple(sorted((int(row_of[column]), column) for column in range(columns) if row_of[column] >= 0))


def _message(pairs: Pairs, counts: Sequence[int], names: tuple[str, str]) -> str | None:
    if not any(counts):
        return None
    if not all(counts):
        there, missing = names if counts[0] else names[::-1]
        return f"pose: somebody was found in {there} but nobody in {missing}"
    if not pairs:
        return f"pose: {names[0]} and {names[1]} share no keypoint"
    more = max(counts)
    if len(pairs) < more:
        name = names[counts.index(more)]
        return f"pose: {more - len(pairs)} of {more} people in {name} {_are(more - len(pairs))} not guided"
    return None


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _shared_keypoints(left: Person, right: Person) -> NDArray[np.bool_]:
    return left.visible & right.visible


def _rank(pose: Pose, rank: Callable[[Person], float]) -> list[int]:
    """The numbers of the people, the one with the lowest rank first."""
    return sorted(range(len(pose.people)), key=lambda i: rank(pose.people[i]))


def _area(person: Person) -> float:
    """The area around a person's keypoints, in square pixels."""
    left, top, right, bottom = person.box
    return (right - left) * (bottom - top)


def _middle(person: Person) -> float:
    left, _, right, _ = person.box
    return (left + right) / 2


def _distances(left: Pose, right: Pose) -> NDArray[np.float64]:
    """The mean distance of the shared keypoints, (left people, right people); without any, farther than all others."""
    costs = np.full((len(left.people), len(right.people)), np.nan)
    for i, one in enumerate(left.people):
        for j, other in enumerate(right.people):
            if (shared := _shared_keypoints(one, other)).any():
                apart = one.points[shared, :2] - other.points[shared, :2]
                costs[i, j] = np.hypot(*apart.T).mean()
    known = costs[~np.isnan(costs)]
    return np.where(np.isnan(costs), 1 + known.sum(), costs)
