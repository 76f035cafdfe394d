"""Places that correspond: a user's file, and the keypoints that poses share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapes import QUICK, picture, tiny_interpolator

from segue.engine.control import keypoints_of
from segue.engine.points import read_points, shared_keypoints
from segue.errors import SegueError
from segue.method.motion import Motion
from segue.method.tree import FrameKey
from segue.pictures.images import Fit
from segue.pose.keypoints import Person, Pose
from segue.run.folder import RunFolder
from segue.run.given import matches_of

ALIGNED_FINELY = True
SQUARES = [(100, 100)] * 3


def write(path: Path, gaps: Any) -> Path:
    path.write_text(json.dumps(gaps))
    return path


def read(path: Path, gaps: Any, given: Any = SQUARES, size: Any = (64, 64), how: Fit = "cover") -> Any:
    return read_points(write(path / "points.json", gaps), given, size, how, Motion())


def test_the_matches_of_each_gap(tmp_path: Path) -> None:
    gaps = [[[[0.25, 0.5], [0.3, 0.6]], [[0, 1], [1, 0]]], []]
    assert read(tmp_path, gaps) == [[((0.25, 0.5), (0.3, 0.6)), ((0.0, 1.0), (1.0, 0.0))], []]


def test_a_loop_has_one_gap_more(tmp_path: Path) -> None:
    gap = [[[0.1, 0.2], [0.3, 0.4]]]
    given = [(100, 100), (50, 50), (100, 100)]
    assert read(tmp_path, [gap, gap], given) == [[((0.1, 0.2), (0.3, 0.4))]] * 2


def test_places_move_as_their_pictures_are_fitted(tmp_path: Path) -> None:
    """Of a picture of 200 x 100, a square film shows the middle half; stretched, all; contained, in the middle."""
    given = [(200, 100), (100, 100)]
    gaps = [[[[0.375, 0.25], [0.375, 0.25]]]]
    assert read(tmp_path, gaps, given) == [[((0.25, 0.25), (0.375, 0.25))]]
    assert read(tmp_path, gaps, given, how="stretch") == [[((0.375, 0.25), (0.375, 0.25))]]
    assert read(tmp_path, gaps, given, how="contain") == [[((0.375, 0.375), (0.375, 0.25))]]


@pytest.mark.parametrize(
    ("gaps", "message"),
    [
        ([[[[0.5, 0.5], [0.5, 0.5]]]], "is for 1 gaps, the film has 2"),
        ([[], [[[0.5, 1.01], [0.5, 0.5]]]], r"\[0.5, 1.01\] of gap 2 lies outside the picture"),
        ([[[[0.5, 0.5], [-0.25, 0.5]]], []], r"\[-0.25, 0.5\] of gap 1 lies outside the picture"),
        ([[[[0.1, 0.5], [0.5, 0.5]]], []], r"\[0.1, 0.5\] of gap 1 lies where the film is cropped"),
        ([[[0.5, 0.5], [0.5, 0.5]], []], r"is not a list of gaps, each a list of \[\[x, y\], \[x, y\]\]"),
        ([[[[0.5, 0.5, 0.5], [0.5, 0.5]]], []], "is not a list of gaps"),
        ([[[["left", 0.5], [0.5, 0.5]]], []], "is not a list of gaps"),
        ({"gaps": []}, "is not a list of gaps"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(gaps: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SegueError, match=message) as caught:
        read(tmp_path, gaps, [(200, 100), (100, 100), (100, 100)])
    assert str(caught.value).startswith(f"points: {tmp_path / 'points.json'}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SegueError, match=r"gone\.json cannot be read: No such file or directory"):
        read_points(tmp_path / "gone.json", SQUARES, (64, 64), "cover", Motion())
    (tmp_path / "text.json").write_text("[[")
    with pytest.raises(SegueError, match=r"text.json is not a list of gaps"):
        read_points(tmp_path / "text.json", SQUARES, (64, 64), "cover", Motion())
    write(tmp_path / "nan.json", [[[[float("nan"), 0.5], [0.5, 0.5]]], []])
    with pytest.raises(SegueError, match=r"nan.json"):
        read_points(tmp_path / "nan.json", SQUARES, (64, 64), "cover", Motion())


# Films.


def film(path: Path, points: Path | str, **settings: Any) -> None:
    quick = {**QUICK, "num_frames": 3, "num_inference_steps": 2, "align": True, **settings}
    tiny_interpolator()(picture(0), picture(1), output=path, points=str(points), **quick)


def test_a_run_keeps_its_points(tmp_path: Path) -> None:
    file = write(tmp_path / "points.json", [[[[0.25, 0.5], [0.5, 0.375]]]])
    film(tmp_path / "run", file)
    file.unlink()
    with RunFolder(tmp_path / "run") as run:
        assert matches_of(run) == [[((0.25, 0.5), (0.5, 0.375))]]
        field = run.latent("bend-000.0000000")
        assert field is not None
        frames = [run.frame(key).read_bytes() for key in run_frames(run)]
        (tmp_path / "run" / "state.json").unlink()
        tiny_interpolator().make(run)  # without the file
        assert [run.frame(key).read_bytes() for key in run_frames(run)] == frames
    # The field at the point's cell: a quarter to the right and an eighth up, of half a picture's 1.
    at = field[:2, 15:17, 7:9].mean((1, 2)).numpy()
    assert at == pytest.approx([0.5, -0.25], abs=0.02)
    film(tmp_path / "without", "")
    with RunFolder(tmp_path / "without") as run:
        assert matches_of(run) == []


def run_frames(run: RunFolder) -> list[Any]:
    """The keys of a film of three frames."""
    return [FrameKey(0), FrameKey.at("1/2"), FrameKey(1)]


def test_a_file_with_other_content_is_another_run(tmp_path: Path) -> None:
    file = write(tmp_path / "points.json", [[[[0.25, 0.5], [0.5, 0.375]]]])
    film(tmp_path / "run", file)
    film(tmp_path / "run", file)  # the same: nothing is said
    write(file, [[[[0.25, 0.5], [0.5, 0.5]]]])
    with pytest.raises(SegueError, match=r"other settings \(points: files? with other content\)"):
        film(tmp_path / "run", file)
    film(tmp_path / "run", file, overwrite=True)
    with RunFolder(tmp_path / "run") as run:
        assert matches_of(run) == [[((0.25, 0.5), (0.5, 0.5))]]


def test_points_are_seen_through_the_moving_camera(tmp_path: Path) -> None:
    """The camera zooms to the middle half by the second keyframe: what lies at 3/8 of it is shown at 1/4."""
    file = write(tmp_path / "points.json", [[[[0.5, 0.5], [0.375, 0.5]]]])
    film(tmp_path / "run", file, zoom=(2.0,))
    with RunFolder(tmp_path / "run") as run:
        (((left, right),),) = matches_of(run)
    assert left == pytest.approx((0.5, 0.5))
    assert right == pytest.approx((0.25, 0.5))


def test_a_wrong_file_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(SegueError, match="is for 2 gaps, the film has 1"):
        film(tmp_path / "run", write(tmp_path / "points.json", [[], []]))
    assert not (tmp_path / "run" / "run.json").exists()
    with pytest.raises(SegueError, match="points needs align, which is off"):
        film(tmp_path / "run", tmp_path / "points.json", align=False)


# Keypoints of poses.


def person(shift: float, absent: tuple[int, ...] = ()) -> Person:
    """Eighteen keypoints on a line, some of them not there."""
    points = np.column_stack([np.arange(18) * 4.0 + shift, np.arange(18) * 2.0 + 10, np.ones(18)])
    points[list(absent), 2] = 0
    return Person(points)


def test_poses_share_the_keypoints_that_both_have_inside_their_pictures() -> None:
    left = Pose((person(0.0, absent=(3,)),), 100, 50)
    right = Pose((person(40.0, absent=(5,)),), 200, 100)
    found = shared_keypoints(left, right)
    expected = [
        ((i * 4 / 100, (i * 2 + 10) / 50), ((i * 4 + 40) / 200, (i * 2 + 10) / 100))
        for i in range(18)
        if i not in (3, 5)
    ]
    assert np.array(found) == pytest.approx(np.array(expected))
    beyond = Pose((person(140.0),), 200, 100)  # from number 16 on beyond the right border
    assert len(shared_keypoints(left, beyond)) == 15
    assert shared_keypoints(None, right) == shared_keypoints(left, None) == []
    assert shared_keypoints(Pose((), 100, 50), right) == []


def test_the_poses_of_a_loop_close(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as run:
        (run.path / "pose").mkdir()
        Pose((person(0.0),), 100, 50).save(run.path / "pose" / "000.0000000.json")
        assert keypoints_of(run, 0, 1, count=2) == []
        Pose((person(20.0),), 100, 50).save(run.path / "pose" / "001.0000000.json")
        forth, back = keypoints_of(run, 0, 1, count=2), keypoints_of(run, 1, 2, count=2)
    assert len(forth) == 18
    assert back == [(right, left) for left, right in forth]
    assert np.array(forth[2]) == pytest.approx(np.array([[0.08, 0.28], [0.28, 0.28]]))
