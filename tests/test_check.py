import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import tiny_interpolator

from segue.cli.app import run
from segue.engine.check import Gap, check_gaps, expect
from segue.engine.interpolator import Interpolator
from segue.pose.keypoints import Person, Pose

ALIGNED_FINELY = True


def square(left: int) -> Image.Image:
    """A red square on white, so many pixels from the left."""
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste("red", (left, 20, left + 16, 36))
    return picture


def nobody(picture: Image.Image) -> Pose:
    return Pose((), *picture.size)


def test_a_square_moves_as_far_as_it_is_away() -> None:
    moved, same = check_gaps([square(16), square(32), square(32)], tiny_interpolator().backbone, nobody)
    assert moved.plain == (True, True)
    assert moved.confidence == 1
    assert moved.move == pytest.approx(25, abs=2)
    assert (same.confidence, same.move) == (1, 0)


def test_scenes_move_as_far_as_they_are_alike() -> None:
    photograph = Image.open(Path(__file__).parent / "data/pose/astronaut.png").convert("RGB")
    nearer = photograph.crop((8, 8, 248, 248))
    pocket = Interpolator.from_pretrained().backbone
    to_scene, within = check_gaps([square(16), photograph, nearer], pocket, nobody)
    assert (to_scene.plain, to_scene.confidence, to_scene.move) == ((True, False), 0, 0)
    assert (within.plain, within.confidence) == ((False, False), 1)
    assert 0.5 < within.move < 4


def test_people_are_matched_and_who_is_left_over_is_named() -> None:
    points = np.array([[10.0 + i, 10 + 2 * i, 1.0] for i in range(18)])
    counts = iter((1, 2))

    def find(picture: Image.Image) -> Pose:
        return Pose((Person.of(points), Person.of(points + np.array([20, 0, 0])))[: next(counts)], *picture.size)

    (gap,) = check_gaps([square(16), square(32)], tiny_interpolator().backbone, find)
    assert (gap.people, gap.matched) == ((1, 2), 1)
    assert gap.unmatched == "pose: 1 of 2 people in the right picture is not guided"


@pytest.mark.parametrize(
    ("gap", "lines"),
    [
        (Gap((True, True), 1.0, 9.0, (0, 0), 0, None), ["shapes will move"]),
        (Gap((True, True), 1.0, 0.0, (0, 0), 0, None), ["nothing will move"]),
        (Gap((True, False), 0.4, 3.0, (0, 0), 0, None), ["move in part .* one picture is .*--points FILE", "--model"]),
        (
            Gap((False, False), 0.0, 0.0, (0, 0), 0, None),
            ["will fade, .* both pictures are .*--points FILE", "--model"],
        ),
        (Gap((True, True), 1.0, 9.0, (1, 1), 1, None), ["shapes will move", "--controlnet"]),
        (Gap((True, True), 1.0, 9.0, (1, 0), 0, "pose: nobody"), ["shapes will move", "pose: nobody"]),
    ],
)
def test_what_a_gap_means_for_the_film(gap: Gap, lines: list[str]) -> None:
    told = expect(gap, is_pocket=True, has_controlnet=False)
    assert len(told) == len(lines)
    for text, pattern in zip(told, lines, strict=True):
        assert re.search(pattern, text)


def test_another_model_may_know_scenes_and_a_controlnet_guides() -> None:
    assert len(expect(Gap((False, False), 1.0, 9.0, (1, 1), 1, None), is_pocket=False, has_controlnet=True)) == 1


def test_the_command_prints_two_lines_for_a_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = tmp_path / "a.png", tmp_path / "b.png"
    square(16).save(left)
    square(32).save(right)
    assert run(["check", str(left), str(right)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{left} to {right}: plain backgrounds, confidence 1.00, shapes move 2")
    assert second == "  shapes will move"


def test_the_command_names_wrong_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    square(16).save(tmp_path / "a.png")
    assert run(["check", str(tmp_path / "a.png")]) == 2
    assert "two images" in capsys.readouterr().err
    assert run(["check", str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 2
    assert "b.png" in capsys.readouterr().err
    square(32).save(tmp_path / "b.png")
    assert run(["check", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--model", "nonsense"]) == 2
    assert "unknown model 'nonsense'" in capsys.readouterr().err
