from pathlib import Path

import pytest
import torch
from PIL import Image

from segue.errors import SegueError
from segue.pose import detect as module
from segue.pose.detect import by_network, detect, detector_of
from segue.pose.network import KeypointNetwork, save


def test_pocket_without_a_pose_network_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "POCKET", tmp_path / "pose")
    with pytest.raises(SegueError, match="this pocket has no pose network"):
        detect(Image.new("RGB", (20, 20)))


def test_pocket_s_network_is_used_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = KeypointNetwork(widths=(16, 8, 8), threshold=0.0, least_keypoints=1)
    save(network, tmp_path)
    monkeypatch.setattr(module, "POCKET", tmp_path)
    picture = Image.linear_gradient("L")
    found = detect(picture)
    assert len(found.people) == 1
    assert found == by_network(network)(picture) == detector_of("pocket")(picture)


def test_pocket_lies_in_the_package() -> None:
    assert module.POCKET.parts[-4:] == ("segue", "models", "pocket", "pose")


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(SegueError, match="'openpose' is unknown; there are pocket, rtmlib, vitpose"):
        detect(Image.new("RGB", (20, 20)), "openpose")  # type: ignore[arg-type]
