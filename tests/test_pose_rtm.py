import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segue.errors import SegueError
from segue.pose.detect import detect, detector_of
from segue.pose.keypoints import KEYPOINTS
from segue.pose.rtm import to_pose

RECORDED = json.loads((Path(__file__).parent / "data" / "pose" / "rtmlib.json").read_text())


def recorded(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[int, int]]:
    record = RECORDED[name]
    return np.array(record["keypoints"]), np.array(record["scores"]), (record["width"], record["height"])


class Body:
    """Stands for rtmlib's class: keeps what it is given and returns a record."""

    MODE = {  # noqa: RUF012
        "balanced": {
            "det": "https://weights.test/boxes-m_1.zip",
            "det_input_size": (640, 640),
            "pose": "https://weights.test/joints-m_2.zip",
            "pose_input_size": (192, 256),
        }
    }
    made: dict[str, Any]
    seen: list[NDArray[np.uint8]]

    def __init__(self, **arguments: Any) -> None:
        print("load with onnxruntime backend")
        Body.made, Body.seen = arguments, []

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        Body.seen.append(image)
        return recorded("two-people")[:2]


@pytest.fixture
def rtmlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package rtmlib without a network; the folder of its weights, which is not there yet."""
    package, tools, file = ModuleType("rtmlib"), ModuleType("rtmlib.tools"), ModuleType("rtmlib.tools.file")

    def download_checkpoint(url: str, dst_dir: str) -> str:
        if Body.MODE["balanced"]["det"] != url:
            raise OSError("no route\nto the host")
        Path(dst_dir).mkdir(parents=True)
        (path := Path(dst_dir) / "boxes-m_1.onnx").write_bytes(b"")
        return str(path)

    vars(package).update(Body=Body, tools=tools)
    vars(tools).update(file=file)
    vars(file).update(download_checkpoint=download_checkpoint)
    for module in (package, tools, file):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_people_and_keypoints_come_through() -> None:
    keypoints, scores, size = recorded("two-people")
    pose = to_pose(keypoints, scores, size)
    assert pose.size == size
    assert len(pose.people) == 2
    for person, points, score in zip(pose.people, keypoints, scores, strict=True):
        there = person.visible
        assert person.points[there, :2].tolist() == points[there].tolist()
        assert person.points[there, 2].tolist() == score[there].tolist()
    # The recorded people's hidden joints are the left knee and ankle.
    for person in pose.people:
        assert [KEYPOINTS[i] for i in np.flatnonzero(~person.visible)] == ["left knee", "left ankle"]
    # In the record the first person stands left, and everybody's right wrist is on the picture's left.
    left, right = (person.points for person in pose.people)
    assert left[0, 0] < right[0, 0]
    assert left[4, 0] < left[1, 0] < left[7, 0]


def test_the_made_up_person_of_an_empty_picture_is_filtered() -> None:
    keypoints, scores, size = recorded("nobody")
    assert keypoints.shape == (1, 18, 2)
    assert to_pose(keypoints, scores, size).people == ()


def test_a_few_sure_keypoints_among_noise_are_nobody() -> None:
    keypoints, scores, size = recorded("two-people")
    scores[0] = 0.1
    scores[0, :5] = 0.6  # a mean of 0.24
    scores[1] = 0.0
    scores[1, :3] = 1.0
    assert to_pose(keypoints, scores, size).people == ()
    scores[0, :10] = 0.6
    assert to_pose(keypoints, scores, size).people[0].visible.sum() == 10


def test_keypoints_outside_and_not_finite_are_not_there() -> None:
    keypoints, scores, size = recorded("two-people")
    keypoints[0, 0] = -1, 20
    keypoints[0, 1] = 20, size[1] + 1
    keypoints[0, 2] = np.nan, 20
    scores[0, 3] = np.nan
    scores[0, 4] = 1.4
    person = to_pose(keypoints, scores, size).people[0]
    assert not person.visible[:4].any()
    assert person.points[4, 2] == 1


def test_nobody_at_all_is_an_empty_pose() -> None:
    assert to_pose(np.zeros((0, 18, 2)), np.zeros((0, 18)), (30, 20)).people == ()


def test_the_networks_are_called_as_rtmlib_wants(rtmlib: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rtmlib.mkdir(parents=True)
    for name in ("boxes-m_1.onnx", "joints-m_2.onnx"):
        (rtmlib / name).write_bytes(b"")
    picture = Image.new("RGB", (480, 360), (255, 128, 0))
    pose = detect(picture, "rtmlib")
    assert len(pose.people) == 2
    assert Body.made["to_openpose"] is True
    assert Body.made["det"] == str(rtmlib / "boxes-m_1.onnx")
    assert Body.made["pose"] == str(rtmlib / "joints-m_2.onnx")
    assert (Body.made["det_input_size"], Body.made["pose_input_size"]) == ((640, 640), (192, 256))
    (image,) = Body.seen
    assert image.shape == (360, 480, 3)
    assert image[0, 0].tolist() == [0, 128, 255]  # blue, green, red
    assert capsys.readouterr().out == ""


def test_missing_weights_name_the_command_and_nothing_is_fetched(rtmlib: Path) -> None:
    with pytest.raises(SegueError, match="segue pose PICTURE --detector rtmlib --download"):
        detector_of("rtmlib")
    assert not rtmlib.exists()


def test_a_failed_download_is_one_line(rtmlib: Path) -> None:
    with pytest.raises(SegueError, match=r"could not be fetched from https://weights.test/joints-m_2.zip: no route to"):
        detector_of("rtmlib", download=True)
    assert (rtmlib / "boxes-m_1.onnx").exists()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    with pytest.raises(SegueError, match=r"pip install 'segue\[pose\]'"):
        detector_of("rtmlib", download=True)
