import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from notices import SegueWarning
from PIL import Image

from segue.errors import SegueError
from segue.pose.keypoints import KEYPOINTS, Person, Pose, as_openpose, fit_pose, from_openpose, scale_pose


def numbers(count: int = 18) -> list[float]:
    """Keypoint i at (10 + i, 40 - i) with confidence 0.5."""
    return [number for i in range(count) for number in (10.0 + i, 40.0 - i, 0.5)]


def content(**changes: Any) -> dict[str, Any]:
    file = {"version": 1.3, "canvas_width": 64, "canvas_height": 48, "people": [{"pose_keypoints_2d": numbers()}]}
    return file | changes


def with_number(at: int, value: object) -> dict[str, Any]:
    flat: list[object] = list(numbers())
    flat[at] = value
    return content(people=[{"pose_keypoints_2d": numbers()}, {"pose_keypoints_2d": flat}])


def standing(offset: float = 0.0) -> Person:
    return Person.of(np.array(numbers()).reshape(18, 3) + np.array([offset, 0, 0]))


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pose.json"
    path.write_text(json.dumps(content()))
    pose = Pose.load(path)
    assert pose.size == (64, 48)
    assert len(pose.people) == 1
    assert pose.people[0].points[KEYPOINTS.index("left elbow")].tolist() == [16.0, 34.0, 0.5]
    assert pose.people[0].points[KEYPOINTS.index("left ear")].tolist() == [27.0, 23.0, 0.5]


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    third = standing(1 / 3).points.copy()
    third[4] = 0
    pose = Pose((standing(), Person(third)), 64, 48)
    pose.save(tmp_path / "pose.json")
    assert Pose.load(tmp_path / "pose.json") == pose
    assert Pose.load(tmp_path / "pose.json") != Pose((standing(), standing()), 64, 48)
    assert [path.name for path in tmp_path.iterdir()] == ["pose.json"]


def test_the_written_file_is_openpose_s(tmp_path: Path) -> None:
    Pose((standing(),), 64, 48).save(tmp_path / "pose.json")
    file = json.loads((tmp_path / "pose.json").read_text())
    assert file["people"][0]["pose_keypoints_2d"] == numbers()
    assert (file["canvas_width"], file["canvas_height"]) == (64, 48)


def test_nobody_is_a_pose_too(tmp_path: Path) -> None:
    Pose((), 64, 48).save(tmp_path / "pose.json")
    assert Pose.load(tmp_path / "pose.json") == Pose((), 64, 48)


def test_25_keypoints_become_18() -> None:
    pose = from_openpose(content(people=[{"pose_keypoints_2d": numbers(25)}]), "body.json")
    # BODY_25 has the middle of the hips at 8, then the right hip, and the right eye at 15.
    assert pose.people[0].points[KEYPOINTS.index("left wrist"), 0] == 10 + 7
    assert pose.people[0].points[KEYPOINTS.index("right hip"), 0] == 10 + 9
    assert pose.people[0].points[KEYPOINTS.index("left ankle"), 0] == 10 + 14
    assert pose.people[0].points[KEYPOINTS.index("right eye"), 0] == 10 + 15
    assert pose.people[0].points[KEYPOINTS.index("left ear"), 0] == 10 + 18


def test_the_picture_s_size_serves_files_without_one() -> None:
    file = content()
    del file["canvas_width"], file["canvas_height"]
    assert from_openpose(file, "pose.json", (100, 90)).size == (100, 90)
    assert from_openpose(content(), "pose.json", (100, 90)).size == (64, 48)
    with pytest.raises(SegueError, match=r'pose\.json: "canvas_width" is missing'):
        from_openpose(file, "pose.json")


def test_fractions_are_fractions_of_the_picture() -> None:
    flat = [0.5, 0.25, 1.0] + [0.0, 0.0, 0.0] * 16 + [1.0, 1.0, 0.5]
    pose = from_openpose(content(people=[{"pose_keypoints_2d": flat}]), "pose.json")
    assert pose.people[0].points[0].tolist() == [32.0, 12.0, 1.0]
    assert pose.people[0].points[17].tolist() == [64.0, 48.0, 0.5]
    assert pose.people[0].visible.sum() == 2


def test_a_list_of_one_frame_is_the_frame_and_empty_people_are_nobody() -> None:
    assert from_openpose([content()], "pose.json") == from_openpose(content(), "pose.json")
    assert from_openpose(content(people=[{"pose_keypoints_2d": [0] * 54}]), "pose.json").people == ()


def test_confidences_are_at_most_one_and_a_missing_keypoint_is_zeros() -> None:
    flat = [99999.0, -5.0, 0, *numbers()[3:5], 2, *numbers()[6:]]
    points = from_openpose(content(people=[{"pose_keypoints_2d": flat}]), "pose.json").people[0].points
    assert points[0].tolist() == [0, 0, 0]
    assert points[1].tolist() == [11.0, 39.0, 1.0]


@pytest.mark.parametrize(
    ("file", "place"),
    [
        (with_number(18, float("nan")), "person 2, keypoint 6 'left elbow': x is NaN"),
        (with_number(19, float("inf")), "person 2, keypoint 6 'left elbow': y is infinite"),
        (with_number(19, 10**400), "person 2, keypoint 6 'left elbow': y is infinite"),
        (with_number(2, "high"), "person 2, keypoint 0 'nose': the confidence is \"high\"; it is a number"),
        (with_number(1, None), "person 2, keypoint 0 'nose': y is null; it is a number"),
        (with_number(1, True), "person 2, keypoint 0 'nose': y is true; it is a number"),
        (with_number(53, -0.5), "person 2, keypoint 17 'left ear': the confidence is -0.5; it is 0 or more"),
        (content(canvas_width=-64), '"canvas_width" is -64; it is a whole number from 1'),
        (content(canvas_height=0), '"canvas_height" is 0; it is a whole number from 1'),
        (content(canvas_height=47.5), '"canvas_height" is 47.5; it is a whole number'),
        (content(canvas_height="48"), '"canvas_height" is "48"; it is a whole number'),
        (content(canvas_height=float("nan")), '"canvas_height" is NaN; it is a whole number'),
        (content(canvas_height=10**30), '"canvas_height" is too large; it is a whole number'),
        (content(people=[{"pose_keypoints_2d": numbers(17)}]), "person 1: 51 numbers, but 18 keypoints are 54"),
        (content(people=[{"pose_keypoints_2d": []}]), "person 1: 0 numbers"),
        (content(people=[{"face": []}]), 'person 1 has no list "pose_keypoints_2d"'),
        (content(people=[7]), 'person 1 has no list "pose_keypoints_2d"'),
        (content(people={"pose_keypoints_2d": []}), 'is not an OpenPose file: it needs a list "people"'),
        ([content(), content()], "is not an OpenPose file"),
        ("pose", "is not an OpenPose file"),
    ],
)
def test_a_broken_file_is_refused_with_the_place_of_the_fault(tmp_path: Path, file: object, place: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(file))
    with pytest.raises(SegueError, match=place) as caught:
        Pose.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe\x00", b"", b"[" * 200_000, b'{"people": [}'])
def test_what_is_not_json_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(data)
    with pytest.raises(SegueError, match=r"broken\.json is not a JSON file") as caught:
        Pose.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(SegueError, match=r"none\.json: No such file"):
        Pose.load(tmp_path / "none.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SegueError, match=f"{os.sep}folder: "):
        Pose.load(tmp_path / "folder")


def test_people_are_read_only_and_not_shared() -> None:
    mine = np.array(numbers()).reshape(18, 3)
    person = Person(mine)
    mine[0, 0] = 99
    assert person.points[0, 0] == 10
    with pytest.raises(ValueError, match="read-only"):
        person.points[0, 0] = 1
    assert hash(person) == hash(standing())
    assert person.box == (10, 23, 27, 40)


@pytest.mark.parametrize("points", [np.zeros((17, 3)), np.full((18, 3), np.nan), np.zeros((18, 2))])
def test_other_arrays_are_no_person(points: Any) -> None:
    with pytest.raises(ValueError, match="18 finite"):
        Person(points)


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (70_000, 4)])
def test_a_picture_has_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="pixels wide and high"):
        Pose((), *size)


# A picture of 200x100 into 100x100: cover crops 50 of each side, contain halves it and adds 25 above and below.
@pytest.mark.parametrize(
    ("fit", "expected"),
    [("cover", (20, 30)), ("contain", (35, 40)), ("stretch", (35, 30))],
)
def test_keypoints_move_with_the_picture(fit: Any, expected: tuple[float, float]) -> None:
    points = np.zeros((18, 3))
    points[3] = 70, 30, 0.8
    pose = fit_pose(Pose((Person(points),), 200, 100), (100, 100), fit)
    assert pose.size == (100, 100)
    assert pose.people[0].points[3].tolist() == [*expected, 0.8]
    assert pose.people[0].points[4].tolist() == [0, 0, 0]


@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
def test_a_dot_of_the_fitted_picture_is_at_the_fitted_keypoint(fit: Any) -> None:
    picture = np.zeros((90, 160), dtype=np.uint8)
    picture[36:40, 70:74] = 255  # its middle is at (72, 38)
    width, height = 64, 96
    share = {"cover": max(64 / 160, 96 / 90), "contain": min(64 / 160, 96 / 90)}.get(fit)
    box = (0.0, 0.0, 160.0, 90.0)
    if share:  # Pillow's own crop and border around the middle
        box = (80 - 32 / share, 45 - 48 / share, 80 + 32 / share, 45 + 48 / share)
    small = Image.fromarray(picture).transform((width, height), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    mass = np.asarray(small, dtype=float)
    y, x = (mass * (np.indices(mass.shape) + 0.5)).sum(axis=(1, 2)) / mass.sum()
    points = np.zeros((18, 3))
    points[0] = 72, 38, 1
    moved = fit_pose(Pose((Person(points),), 160, 90), (width, height), fit).people[0].points[0]
    assert moved[:2] == pytest.approx([x, y], abs=0.6)


def test_scaling_there_and_back_changes_nothing() -> None:
    pose = Pose((standing(),), 64, 48)
    assert scale_pose(pose, (128, 24)).people[0].points[0].tolist() == [20, 20, 0.5]
    assert scale_pose(scale_pose(pose, (128, 24)), (64, 48)) == pose


def test_a_cropped_pose_is_written_and_read_with_what_lies_outside(tmp_path: Path) -> None:
    pose = fit_pose(Pose((standing(),), 64, 48), (20, 48))
    assert pose.people[0].points[0].tolist() == [-12, 40, 0.5]  # kept, for the limbs that reach into the picture
    pose.save(tmp_path / "cropped.json")
    assert json.loads((tmp_path / "cropped.json").read_text())["cropped"] is True
    assert Pose.load(tmp_path / "cropped.json") == pose
    assert "cropped" not in as_openpose(Pose((standing(),), 64, 48))


@pytest.mark.parametrize("place", [(-0.1, 5), (64.1, 5), (5, -0.1), (5, 48.1)])
def test_beyond_every_border_a_keypoint_is_left_out_with_a_word(place: tuple[float, float]) -> None:
    points = np.zeros((18, 3))
    points[:4] = [(0, 0, 1), (64, 48, 1), (*place, 1), (30, 20, 1)]
    file = as_openpose(Pose((Person(points),), 64, 48))
    assert file.pop("cropped") is True
    with pytest.warns(
        SegueWarning, match=r"pose\.json: outside the picture of 64x48, .*: person 1's right shoulder at"
    ):
        pose = from_openpose(file, "pose.json")
    points[2] = 0
    assert pose == Pose((Person(points),), 64, 48)


def test_nothing_lies_endlessly_far_outside() -> None:
    with pytest.warns(SegueWarning, match="person 2's left elbow at"):
        pose = from_openpose(with_number(18, 1e9) | {"cropped": True}, "pose.json")
    assert pose.people[1].visible.tolist() == [i != KEYPOINTS.index("left elbow") for i in range(18)]


def test_many_keypoints_outside_are_told_in_one_line() -> None:
    with pytest.warns(SegueWarning) as caught:
        pose = from_openpose(content(canvas_width=20), "a")
    assert [str(warning.message) for warning in caught] == [
        "a: outside the picture of 20x48, and left out: person 1's left hip at (21, 29), "
        "person 1's left knee at (22, 28), person 1's left ankle at (23, 27) and 4 more"
    ]
    assert pose.people[0].visible.sum() == 11


def falling(width: float, height: float, lowest: float) -> list[list[float]]:
    """18 keypoints one below the other, from a tenth of the height to ``lowest``."""
    return [[width * (0.5 + i / 100), height * (0.1 + (lowest - 0.1) * i / 17)] for i in range(18)]


@pytest.mark.parametrize(("width", "height", "lowest"), [(1, 1, 1.11), (1, 1, 0.9), (64, 48, 1.02), (64, 48, 0.9)])
def test_one_keypoint_outside_spoils_neither_fractions_nor_pixels(width: float, height: float, lowest: float) -> None:
    flat = [number for point in falling(width, height, lowest) for number in (*point, 1.0)]
    file = [content(people=[{"pose_keypoints_2d": flat, "face_keypoints_2d": None}])]
    if lowest > 1:
        with pytest.warns(SegueWarning, match="left ear"):
            pose = from_openpose(file, "pose.json")
    else:
        pose = from_openpose(file, "pose.json")
    expected = np.array(falling(64, 48, lowest))
    there = expected[:, 1] <= 48
    assert there.sum() in (16, 17, 18)
    assert pose.people[0].visible.tolist() == there.tolist()
    assert pose.people[0].points[there, :2] == pytest.approx(expected[there])


def test_fractions_of_a_portrait_whose_body_lies_below_are_fractions() -> None:
    flat = [number for point in falling(1, 1, 2.4) for number in (*point, 1.0)]
    with pytest.warns(SegueWarning, match="left out"):
        pose = from_openpose(content(people=[{"pose_keypoints_2d": flat}]), "pose.json")
    assert pose.people[0].points[0].tolist() == pytest.approx([32, 4.8, 1])
    assert pose.people[0].visible.sum() == 7


def test_of_two_people_one_far_outside_leaves_the_other_s_fractions() -> None:
    people = [
        {"pose_keypoints_2d": [n for x, y in falling(1, 1, 0.9) for n in (x + aside, y, 1)]} for aside in (0, 0.4)
    ]
    with pytest.warns(SegueWarning, match="person 2's left hip"):
        pose = from_openpose(content(people=people), "pose.json")
    assert pose.people[0].visible.all()
    assert pose.people[1].points[0].tolist() == pytest.approx([0.9 * 64, 0.1 * 48, 1])


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("share", [(1, 1), (64, 48)])
def test_openpose_editor_s_files_are_read(nested: bool, share: tuple[int, int]) -> None:
    first, second = falling(*share, 0.9), falling(*share, 0.7)
    second[3], second[4] = [0, 0], [-1, -1]
    points = [first, second] if nested else [*first, *second]
    pose = from_openpose({"width": 64, "height": 48, "keypoints": points}, "pose.json")
    assert pose.size == (64, 48)
    assert pose.people[0].points[:, :2] == pytest.approx(np.array(falling(64, 48, 0.9)))
    assert pose.people[1].points[5].tolist() == pytest.approx([*falling(64, 48, 0.7)[5], 1])
    assert pose.people[1].visible.tolist() == [i not in (3, 4) for i in range(18)]


def test_points_with_confidences_and_other_names_of_the_size_are_read() -> None:
    triples = [[x, y, 0.5] for x, y in falling(64, 48, 0.9)]
    expected = from_openpose({"width": 64, "height": 48, "keypoints": [triples]}, "pose.json")
    assert set(expected.people[0].points[:, 2]) == {0.5}
    assert from_openpose({"width": 64, "height": 48, "people": [{"pose_keypoints_2d": triples}]}, "a") == expected


@pytest.mark.parametrize(
    ("points", "fault"),
    [
        ([[1, 2]] * 20, "person 2: 6 numbers, but 18 keypoints are 54"),
        ([[[1, 2]] * 17], "person 1: 51 numbers"),
        ([[1, "x"]] * 18, "person 1, keypoint 0 'nose': y is \"x\"; it is a number"),
        ([[[1, None]] * 18], "person 1, keypoint 0 'nose': y is null; it is a number"),
        ([7] * 18, "person 1: 18 numbers"),
    ],
)
def test_openpose_editor_s_broken_files_are_refused(points: object, fault: str) -> None:
    with pytest.raises(SegueError, match=fault):
        from_openpose({"width": 64, "height": 48, "keypoints": points}, "pose.json")


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "pose.json").write_text(json.dumps(content()), encoding="utf-8-sig")
    assert Pose.load(tmp_path / "pose.json") == from_openpose(content(), "pose.json")
