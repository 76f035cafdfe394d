from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segue.cli import check
from segue.cli.app import run
from segue.cli.check import FAR, Preflight, Score, advice, layout_distance, pose_distance, style_distance
from segue.pose.keypoints import Person, Pose


def halves(top: int, bottom: int) -> Image.Image:
    """A grey picture of two halves."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32], pixels[32:] = top, bottom
    return Image.fromarray(pixels)


def test_layout_is_the_mean_difference_of_brightness() -> None:
    assert layout_distance(halves(0, 255), halves(0, 255)) == 0
    assert layout_distance(halves(0, 255), halves(255, 0)) == pytest.approx(1)
    assert layout_distance(halves(0, 255), halves(51, 255)) == pytest.approx(0.1, abs=0.005)


def test_style_looks_at_statistics_not_at_places() -> None:
    assert style_distance(halves(0, 255), halves(255, 0)) == pytest.approx(0, abs=1e-12)
    # Mean 0.5 and spread 0.5 against mean 0.5 and none, in each of three channels; one row of edges of 63.
    expected = (3 * 0.5 + 1 / 63 / 2) / 7
    assert style_distance(halves(0, 255), halves(128, 128)) == pytest.approx(expected, abs=0.002)


def test_pose_is_relative_to_the_height() -> None:
    points = np.array([[10.0, 10 + 5 * i, 1.0] for i in range(18)])
    one, other = (Pose((Person.of(points + np.array([dx, 0, 0])),), 128, 128) for dx in (0, 17))
    assert pose_distance(one, other) == pytest.approx(17 / 85)
    assert pose_distance(one, None) is None
    assert pose_distance(one, Pose((), 128, 128)) is None


def test_of_several_people_the_largest_are_compared() -> None:
    points = np.array([[10.0 + i, 10 + 5 * i, 1.0] for i in range(18)])
    small = np.array([[100.0 + i, 100 + i, 1.0] for i in range(18)])
    large, child, other = (Person.of(points), Person.of(small), Person.of(small - np.array([80.0, 0, 0])))
    assert pose_distance(Pose((child, large), 128, 128), Pose((large, other), 128, 128)) == pytest.approx(0)


def test_advice_names_what_to_change() -> None:
    near = Preflight(0.0, 0.0, 0.0, None)
    assert advice(near, with_controlnet=True) == []
    far = Preflight(*(FAR[name] + 0.01 for name in ("layout", "style", "content", "pose")))
    lines = advice(far, with_controlnet=False)
    assert [
        word
        for line, word in zip(lines, ("--noise", "--spacing", "--prompt", "--controlnet"), strict=True)
        if word in line
    ]
    assert len(lines) == 4


def test_the_score_is_the_share_of_easier_pairs() -> None:
    score = Score(0.5, 0.0, 2.0, tuple(i / 10 for i in range(11)), 0.5, 0.3, 0.7)
    assert score(Preflight(0.3, 9.0, 0.1, None)) == pytest.approx(35)
    assert score(Preflight(0.0, 9.0, 0.0, 5.0)) == 0
    assert score(Preflight(1.0, 0.0, 1.0, None)) == 100


def test_the_command_shows_a_score_only_where_one_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, picture in (("a.png", halves(0, 255)), ("b.png", halves(255, 0))):
        picture.save(tmp_path / name)
    shown = []
    for score in (None, Score(1.0, 0.0, 0.0, tuple(i / 5 for i in range(11)), 0.5, 0.3, 0.7)):
        monkeypatch.setattr(check, "SCORE", score)
        assert run(["check", str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 0
        shown.append(capsys.readouterr().out)
    assert "layout" in shown[0]
    assert "difficulty" not in shown[0]
    assert "difficulty 50 of 100" in shown[1]


def test_the_command_names_wrong_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    halves(0, 255).save(tmp_path / "a.png")
    assert run(["check", str(tmp_path / "a.png")]) == 2
    assert "two images" in capsys.readouterr().err
    assert run(["check", str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 2
    assert "b.png" in capsys.readouterr().err
    halves(255, 0).save(tmp_path / "b.png")
    assert run(["check", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--model", "nonsense"]) == 2
    assert "unknown model 'nonsense'" in capsys.readouterr().err
