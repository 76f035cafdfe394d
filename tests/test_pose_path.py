from fractions import Fraction

import numpy as np
import pytest

from segue.errors import SegueError
from segue.method.tree import FrameKey
from segue.pose.keypoints import Person, Pose
from segue.pose.path import PosePath, pose_between


def person(**places: tuple[float, float]) -> Person:
    """Keypoints by number: k4=(1, 2)."""
    points = np.zeros((18, 3))
    for name, place in places.items():
        points[int(name[1:])] = *place, 1
    return Person(points)


def pose(*people: Person) -> Pose:
    return Pose(people, 100, 100)


LEFT = pose(person(k0=(10, 20), k1=(10, 40), k4=(0, 50)))
RIGHT = pose(person(k0=(50, 60), k1=(30, 40), k7=(90, 50)))
NOBODY = pose()


def places(pose: Pose | None, one: int = 0) -> dict[int, tuple[float, float]]:
    assert pose is not None
    points = pose.people[one].points
    return {k: (points[k, 0], points[k, 1]) for k in range(18) if points[k, 2] > 0}


def test_shared_keypoints_move_on_straight_lines_and_others_are_dropped() -> None:
    path = PosePath([LEFT, RIGHT])
    assert places(path(FrameKey(0, Fraction(1, 4)))) == {0: (20, 30), 1: (15, 40)}
    assert places(path(Fraction(1, 2))) == {0: (30, 40), 1: (20, 40)}
    assert path.guides
    assert path.messages == ()


def test_held_keypoints_stay_where_they_are() -> None:
    path = PosePath([LEFT, RIGHT], hold=True)
    assert places(path(Fraction(1, 4))) == {0: (20, 30), 1: (15, 40), 4: (0, 50), 7: (90, 50)}


def test_confidences_are_blended_too() -> None:
    faint = Person.of(LEFT.people[0].points * np.array([1, 1, 0.5]))
    assert pose_between(pose(faint), LEFT, ((0, 0),), 0.5).people[0].points[0, 2] == pytest.approx(0.75)


def test_keyframes_have_their_own_pose() -> None:
    path = PosePath([LEFT, RIGHT, LEFT])
    assert path(FrameKey(0)) == LEFT
    assert path(FrameKey(1)) == RIGHT
    assert path(FrameKey(2)) == LEFT
    assert places(path(FrameKey(1, Fraction(1, 2)))) == {0: (30, 40), 1: (20, 40)}
    assert PosePath([LEFT])(FrameKey(0)) == LEFT


def test_frames_beside_a_keyframe_with_nobody_are_not_guided() -> None:
    for nobody in (None, NOBODY):
        path = PosePath([LEFT, nobody, LEFT, RIGHT])
        assert path(Fraction(1, 2)) is None
        assert path(FrameKey(1)) is None
        assert path(Fraction(3, 2)) is None
        assert path(Fraction(5, 2)) is not None
        assert path.messages == tuple(
            f"pose: somebody was found in the keyframe at {place} but nobody in the keyframe at 1: "
            "made without poses between them"
            for place in (0, 2)
        )
    assert not PosePath([None, None]).guides
    assert PosePath([None, None]).messages == ()


def test_an_edit_bends_the_path_through_it() -> None:
    edit = pose(person(k0=(10, 80), k1=(10, 40)))
    path = PosePath([LEFT, RIGHT], edits={Fraction(1, 4): edit})
    assert path(FrameKey(0, Fraction(1, 4))) == edit
    assert places(path(Fraction(1, 8))) == {0: (10, 50), 1: (10, 40)}
    # A third of the way from the edit at 1/4 to the keyframe at 1.
    assert places(path(Fraction(1, 2)))[0] == pytest.approx((10 + 40 / 3, 80 - 20 / 3))


def test_edits_guide_between_each_other_where_the_keyframes_have_nobody() -> None:
    path = PosePath([None, None], edits={Fraction(3, 4): RIGHT, Fraction(1, 4): LEFT})
    assert places(path(Fraction(1, 2))) == {0: (30, 40), 1: (20, 40)}
    assert path(Fraction(1, 8)) is None
    assert path(Fraction(7, 8)) is None
    assert "somebody was found in the pose given at 0.25 but nobody in the keyframe at 0" in path.messages[0]


def test_an_edit_at_a_keyframe_replaces_its_pose() -> None:
    path = PosePath([NOBODY, RIGHT], edits={Fraction(0): LEFT})
    assert path(FrameKey(0)) == LEFT
    assert places(path(Fraction(1, 2))) == {0: (30, 40), 1: (20, 40)}


def test_people_are_matched_as_asked() -> None:
    near_left, near_right = person(k0=(10, 10), k4=(12, 12)), person(k0=(80, 10), k4=(90, 20))
    grown = person(k0=(10, 10), k4=(40, 40))
    left, right = pose(near_left, near_right), pose(near_right, grown)
    by_size = PosePath([left, right])(Fraction(1, 2))
    by_side = PosePath([left, right], matching="left-to-right")(Fraction(1, 2))
    assert places(by_size, 0)[0] == (45, 10)
    assert places(by_size, 1)[0] == (45, 10)
    assert places(by_side, 0) == {0: (10, 10), 4: (26, 26)}
    assert places(by_side, 1) == {0: (80, 10), 4: (90, 20)}


def test_unmatched_people_are_left_out_and_counted() -> None:
    path = PosePath([pose(LEFT.people[0], person(k0=(1, 1), k4=(2, 2))), RIGHT])
    middle = path(Fraction(1, 2))
    assert middle is not None
    assert len(middle.people) == 1
    assert path.messages == ("pose: 1 of 2 people in the keyframe at 0 is not guided",)


def test_given_files_with_faults_are_refused() -> None:
    PosePath([LEFT, RIGHT], given=True)
    with pytest.raises(SegueError, match="somebody was found in the keyframe at 0 but nobody in the keyframe at 1"):
        PosePath([LEFT, NOBODY], given=True)


def test_positions_are_exact() -> None:
    path = PosePath([LEFT, RIGHT])
    third = places(path(Fraction(1, 3)))
    assert third[0] == pytest.approx((10 + 40 / 3, 20 + 40 / 3), abs=1e-12)


def test_paths_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="of one size"):
        PosePath([LEFT, Pose(RIGHT.people, 200, 100)])
    with pytest.raises(ValueError, match="outside the film, which ends at 1"):
        PosePath([LEFT, RIGHT], edits={Fraction(5, 4): LEFT})
    with pytest.raises(ValueError, match="needs the pose"):
        PosePath([])
