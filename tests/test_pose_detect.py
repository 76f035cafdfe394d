from pathlib import Path

import pytest
import torch
from PIL import Image

from segue.errors import SegueError
from segue.pictures.images import load
from segue.pose import detect as module
from segue.pose.detect import detect, detector_of, network_detector
from segue.pose.network import KeypointNetwork, save

ASTRONAUT = Path(__file__).parent / "data" / "pose" / "astronaut.png"
FIGURES = sorted((Path(__file__).parents[1] / "benchmarks" / "pairs").glob("poses-*.png"))
ICONS = sorted((Path(__file__).parents[1] / "examples").glob("*.png"))


def test_pocket_without_a_pose_network_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "POCKET", tmp_path / "pose")
    with pytest.raises(SegueError, match="this pocket has no pose network"):
        detect(Image.new("RGB", (20, 20)), "pocket")
    assert detect(Image.new("RGB", (20, 20))).people == ()


def test_drawn_figures_are_pocket_s_and_photographs_blazepose_s() -> None:
    figures = [load(path) for path in FIGURES[:10]]
    assert len(figures) == 10
    for figure in figures:
        assert detect(figure) == detect(figure, "pocket")
        assert len(detect(figure).people) == 1
    photograph = load(ASTRONAUT)
    assert detect(photograph) == detect(photograph, "blazepose")
    assert len(detect(photograph).people) == 1
    assert detect(photograph, "pocket").people == ()


def test_animals_and_things_are_nobody() -> None:
    icons = [load(path) for path in ICONS]
    assert len(icons) > 8
    assert [len(detect(icon).people) for icon in icons] == [0] * len(icons)


def test_pocket_s_network_is_used_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = KeypointNetwork(widths=(16, 8, 8), threshold=0.0, least_keypoints=1)
    save(network, tmp_path)
    monkeypatch.setattr(module, "POCKET", tmp_path)
    picture = Image.linear_gradient("L")
    found = detect(picture, "pocket")
    assert len(found.people) == 1
    assert found == network_detector(network)(picture) == detector_of("pocket")(picture)


def test_pocket_lies_in_the_package() -> None:
    assert module.POCKET.parts[-4:] == ("segue", "models", "pocket", "pose")


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(SegueError, match="'openpose' is unknown; choose from pocket, blazepose, rtmlib"):
        detect(Image.new("RGB", (20, 20)), "openpose")  # type: ignore[arg-type]
