import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from segue.errors import SegueError
from segue.pose.keypoints import Person, Pose
from segue.pose.matching import Guidance, guidance, match, smallest_total

NAMES = ("keyframe 1", "keyframe 2")


def person(x: float, y: float, size: float, keypoints: tuple[int, ...] = (0, 4, 10)) -> Person:
    """Keypoints on the diagonal of a square whose upper left corner is at (x, y)."""
    points = np.zeros((18, 3))
    for step, keypoint in enumerate(keypoints):
        points[keypoint] = x + size * step / 2, y + size * step / 2, 1
    return Person(points)


def pose(*people: Person) -> Pose:
    return Pose(people, 100, 100)


SMALL_LEFT, LARGE_MIDDLE, MEDIUM_RIGHT = person(2, 50, 10), person(30, 10, 40), person(75, 20, 20)


def test_the_largest_is_the_largest() -> None:
    left = pose(SMALL_LEFT, LARGE_MIDDLE, MEDIUM_RIGHT)
    right = pose(person(80, 0, 15), person(0, 0, 30))
    assert match(left, right, "largest") == ((1, 1), (2, 0))
    assert match(right, left) == ((0, 2), (1, 1))


def test_left_to_right_is_as_they_stand() -> None:
    left = pose(MEDIUM_RIGHT, SMALL_LEFT, LARGE_MIDDLE)
    right = pose(person(80, 0, 15), person(0, 0, 30))
    assert match(left, right, "left-to-right") == ((1, 1), (2, 0))


def test_nearest_has_the_smallest_sum_not_the_nearest_first() -> None:
    # On a line: a at 40, b at 60; the other picture has 59 and 99. The nearest pair is (60, 59), but 60 to 99 and 40
    # to 59 is 58 together, as is 60 to 59 and 40 to 99 with 60: the first sum is smaller.
    left = pose(person(40, 0, 0), person(60, 0, 0))
    right = pose(person(59, 0, 0), person(99, 0, 0))
    assert match(left, right, "nearest") == ((0, 0), (1, 1))
    assert match(pose(*left.people[::-1]), right, "nearest") == ((0, 1), (1, 0))
    assert match(pose(SMALL_LEFT), right, "nearest") == ((0, 0),)


def test_nearest_goes_by_the_keypoints_that_both_have() -> None:
    left = pose(person(0, 0, 0, (0, 1)), person(0, 0, 0, (2, 3)))
    right = pose(person(90, 90, 0, (2, 3)), person(90, 90, 0, (0, 1)))
    assert match(left, right, "nearest") == ((0, 1), (1, 0))


def test_an_unknown_matching_is_refused() -> None:
    with pytest.raises(SegueError, match="'tallest' is unknown; choose from largest, left-to-right, nearest"):
        match(pose(), pose(), "tallest")  # type: ignore[arg-type]


@pytest.mark.parametrize("ties", [False, True])
def test_the_assignment_costs_what_scipy_s_costs(ties: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        costs = rng.uniform(0, 9, size=rng.integers(0, 9, 2))
        costs = costs.round() if ties else costs
        pairs = smallest_total(costs)
        rows, columns = linear_sum_assignment(costs)
        assert len(pairs) == len(rows) == len({row for row, _ in pairs}) == len({column for _, column in pairs})
        assert sum(costs[pair] for pair in pairs) == pytest.approx(costs[rows, columns].sum())


@pytest.mark.parametrize("matching", ["largest", "left-to-right", "nearest"])
def test_everybody_matched_says_nothing(matching: str) -> None:
    both = pose(SMALL_LEFT, LARGE_MIDDLE)
    assert guidance(both, both, matching) == Guidance(((0, 0), (1, 1)), None)  # type: ignore[arg-type]
    assert guidance(both, both, given=True).pairs == ((0, 0), (1, 1))


@pytest.mark.parametrize("nobody", [None, pose()])
def test_nobody_in_both_is_silent(nobody: Pose | None) -> None:
    assert guidance(nobody, nobody) == Guidance((), None)
    assert guidance(pose(), None) == Guidance((), None)
    with pytest.raises(SegueError, match="nobody was found in keyframe 1 and keyframe 2"):
        guidance(nobody, nobody, given=True, names=NAMES)


@pytest.mark.parametrize("nobody", [None, pose()])
def test_somebody_in_one_only_is_said(nobody: Pose | None) -> None:
    line = "pose: somebody was found in keyframe 2 but nobody in keyframe 1: made without poses between them"
    assert guidance(nobody, pose(SMALL_LEFT), names=NAMES) == Guidance((), line)
    assert "somebody was found in keyframe 1 but nobody in keyframe 2" in str(
        guidance(pose(SMALL_LEFT), nobody, names=NAMES).message
    )
    with pytest.raises(SegueError, match="somebody was found in keyframe 2 but nobody in keyframe 1"):
        guidance(nobody, pose(SMALL_LEFT), given=True, names=NAMES)


def test_different_numbers_guide_the_matched_and_count_the_others() -> None:
    three, one = pose(SMALL_LEFT, LARGE_MIDDLE, MEDIUM_RIGHT), pose(LARGE_MIDDLE)
    assert guidance(three, one, names=NAMES) == Guidance(((1, 0),), "pose: 2 of 3 people in keyframe 1 are not guided")
    two = pose(SMALL_LEFT, LARGE_MIDDLE)
    assert guidance(one, two, names=NAMES) == Guidance(((0, 1),), "pose: 1 of 2 people in keyframe 2 is not guided")
    with pytest.raises(SegueError, match="2 of 3 people in keyframe 1 are not guided"):
        guidance(three, one, given=True, names=NAMES)


def test_no_shared_keypoint_is_said() -> None:
    head, legs = pose(person(0, 0, 9, (0, 14, 15))), pose(person(0, 0, 9, (8, 9, 10)))
    line = "pose: keyframe 1 and keyframe 2 share no keypoint: made without poses between them"
    assert guidance(head, legs, names=NAMES) == Guidance((), line)
    with pytest.raises(SegueError, match="share no keypoint"):
        guidance(head, legs, given=True, names=NAMES)


def test_a_matched_person_without_a_shared_keypoint_is_not_guided() -> None:
    left = pose(LARGE_MIDDLE, person(0, 0, 9, (0, 14, 15)))
    right = pose(LARGE_MIDDLE, person(0, 0, 9, (8, 9, 10)))
    assert guidance(left, right, names=NAMES) == Guidance(((0, 0),), "pose: 1 of 2 people in keyframe 1 is not guided")
