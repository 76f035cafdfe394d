"""Poses and control images in the engine, on tiny real networks."""

import json
import shutil
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from notices import SegueWarning
from PIL import Image, ImageOps
from tiny import tiny_controlnet, tiny_pipe

from segue import Edit, FrameKey, Interpolator, MorphSettings, SegueError
from segue.engine.control import control_at, find_poses, read_given, scale_at, tell_unguided
from segue.engine.dialogue import AcceptRest, Again
from segue.method.conditioning import Control
from segue.pictures.images import fit, load
from segue.pose.drawing import draw
from segue.pose.keypoints import Person, Pose, as_openpose
from segue.run.folder import RunFolder
from segue.run.schema import RUN_FILE
from segue.settings.kinds import parse_settings

SIZES = [(64, 64)] * 2
SETTINGS: dict[str, Any] = {"num_frames": 5, "num_inference_steps": 2, "prompt": "a", "detail": 0.0}


def standing(x: float, people: int = 1) -> Pose:
    """People with all keypoints at a place of a 64 x 64 picture."""
    points = np.array([[x + (i % 5) * 4, 6 + i * 3, 1.0] for i in range(18)])
    return Pose(tuple(Person.of(points + np.array([person * 20, 0, 0])) for person in range(people)), 64, 64)


@pytest.fixture
def interpolator() -> Interpolator:
    pipe = tiny_pipe()
    return Interpolator(pipe, controlnet=tiny_controlnet(pipe))


@pytest.fixture
def keyframes() -> list[Image.Image]:
    return [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]


def files(folder: Path, *poses: Pose) -> str:
    for i, pose in enumerate(poses):
        pose.save(folder / f"pose-{i}.json")
    return ",".join(str(folder / f"pose-{i}.json") for i in range(len(poses)))


def test_the_scale_rises_to_the_middle() -> None:
    settings = parse_settings(MorphSettings, {"control_scale": 3.0})
    scales = [float(scale_at(settings, FrameKey(0, Fraction(i, 8)))) for i in range(8)]
    assert scales == pytest.approx([1, 1.5, 2, 2.5, 3, 2.5, 2, 1.5])
    flat = parse_settings(MorphSettings, {"control_scale": 0.7, "control_flat": True})
    assert float(scale_at(flat, FrameKey(0, Fraction(1, 8)))) == pytest.approx(0.7)


def test_the_control_is_the_drawn_skeleton_and_nobody_has_no_influence() -> None:
    control = control_at(standing(10), "controlnet1.1", (64, 64), torch.tensor([1.5]))
    drawn = np.asarray(draw(standing(10), "controlnet1.1"))
    assert np.array_equal((control.image[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8), drawn)
    assert float(control_at(None, "controlnet1.1", (64, 64), torch.tensor([1.5])).scale) == 0


def test_given_poses_guide_the_frames(interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path) -> None:
    paths = files(tmp_path, standing(5), standing(35))
    plain = interpolator(*keyframes, **SETTINGS, pose="off")
    guided = interpolator(*keyframes, **SETTINGS, pose=paths, output=tmp_path / "run")
    assert not np.array_equal(np.asarray(plain.frames[2]), np.asarray(guided.frames[2]))
    assert (tmp_path / "run/pose/000.0000000.json").exists()
    # The run needs its own folder only: without the files it continues all the same.
    for path in paths.split(","):
        Path(path).unlink()
    (tmp_path / "run/frames/000.5000000.png").unlink()
    with pytest.raises(SegueError, match=r"pose-0\.json"):
        interpolator(*keyframes, **SETTINGS, pose=paths, output=tmp_path / "other")
    again = interpolator.remake(tmp_path / "run", FrameKey(0, Fraction(1, 4)))
    assert np.array_equal(np.asarray(again.frames[2]), np.asarray(guided.frames[2]))


def test_given_poses_are_in_the_run_before_it_is_one(
    interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill at any moment leaves no run that would go and look for poses that were given."""
    run, settings = tmp_path / "run", {**SETTINGS, "pose": files(tmp_path, standing(5), standing(35))}
    write, kept = RunFolder.write, []

    def note(folder: RunFolder, name: str, content: Any) -> None:
        if name == RUN_FILE:
            kept.append([Pose.load(file) for file in sorted((run / "pose").glob("*.json"))])
        write(folder, name, content)

    monkeypatch.setattr(RunFolder, "write", note)
    interpolator(*keyframes, **settings, output=run)
    assert kept == [[standing(5), standing(35)]]
    (run / "pose/001.0000000.json").unlink()
    with pytest.raises(
        SegueError, match=r"001\.0000000\.json is missing; run the command that began the film to write"
    ):
        interpolator.remake(run, FrameKey(0, Fraction(1, 4)))
    interpolator(*keyframes, **settings, output=run)


def test_a_pose_file_without_a_size_is_of_its_picture(keyframes: list[Image.Image], tmp_path: Path) -> None:
    content = as_openpose(standing(20))
    del content["canvas_width"], content["canvas_height"]
    (tmp_path / "pose.json").write_text(json.dumps(content))
    large = [picture.resize((128, 128)) for picture in keyframes]
    settings = parse_settings(MorphSettings, {"pose": ",".join([str(tmp_path / "pose.json")] * 2)})
    for pictures, factor in ((keyframes, 1.0), (large, 0.5)):
        (first, _) = read_given(settings, [picture.size for picture in pictures], (64, 64), (64, 64), 1).poses
        assert first.people[0].points[0, 0] == pytest.approx(factor * standing(20).people[0].points[0, 0])


def test_control_images_are_seen_through_the_camera(keyframes: list[Image.Image], tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 64), "white")
    image.paste("black", (24, 24, 40, 40))
    image.save(tmp_path / "hint.png")
    settings = parse_settings(MorphSettings, {"control_image": [str(tmp_path / "hint.png")] * 2, "zoom": (2.0,)})
    first, second = read_given(settings, SIZES, (64, 64), (64, 64), 1).images
    assert np.array_equal(np.asarray(first), np.asarray(image))
    assert np.asarray(second)[18:46, 18:46].max() < 40  # twice as large
    standing(20).save(tmp_path / "pose.json")
    settings = parse_settings(MorphSettings, {"pose": ",".join([str(tmp_path / "pose.json")] * 2), "zoom": (2.0,)})
    poses = read_given(settings, SIZES, (64, 64), (64, 64), 1).poses
    assert poses[0] == standing(20)
    assert poses[1].people[0].points[0, :2] == pytest.approx(2 * standing(20).people[0].points[0, :2] - 32)


def test_files_with_other_content_are_another_film(
    interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path
) -> None:
    paths = files(tmp_path, standing(5), standing(35))
    interpolator(*keyframes, **SETTINGS, pose=paths, output=tmp_path / "run")
    interpolator(*keyframes, **{**SETTINGS, "num_frames": 9}, pose=paths, output=tmp_path / "run")  # grown
    kept = (tmp_path / "run/pose/001.0000000.json").read_text()
    files(tmp_path, standing(5), standing(20))
    with pytest.raises(SegueError, match="pose: files with other content"):
        interpolator(*keyframes, **{**SETTINGS, "num_frames": 9}, pose=paths, output=tmp_path / "run")
    assert (tmp_path / "run/pose/001.0000000.json").read_text() == kept
    image = str(tmp_path / "hint.png")
    Image.new("RGB", (64, 64), "white").save(image)
    interpolator(*keyframes, **SETTINGS, control_image=[image] * 2, output=tmp_path / "hinted")
    Image.new("RGB", (64, 64), "black").save(image)
    with pytest.raises(SegueError, match="control_image: files with other content"):
        interpolator(*keyframes, **SETTINGS, control_image=[image] * 2, output=tmp_path / "hinted")


def test_a_pose_of_its_own_changes_a_frame(
    interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path
) -> None:
    paths = files(tmp_path, standing(5), standing(35))
    before = interpolator(*keyframes, **SETTINGS, pose=paths, output=tmp_path / "run")
    frames = [np.asarray(frame) for frame in before.frames]
    standing(2).save(tmp_path / "own.json")
    key = FrameKey(0, Fraction(1, 4))
    after = interpolator.remake(tmp_path / "run", key, Edit(pose=str(tmp_path / "own.json"), seed=0))
    changed = [not np.array_equal(a, np.asarray(b)) for a, b in zip(frames, after.frames, strict=True)]
    assert changed == [False, True, False, False, False]


def test_people_of_an_edit_who_are_not_guided_are_told(
    interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path
) -> None:
    interpolator(*keyframes, **SETTINGS, pose=files(tmp_path, standing(5), standing(35)), output=tmp_path / "run")
    standing(2, people=2).save(tmp_path / "two.json")
    with pytest.warns(SegueWarning, match=r"1 of 2 people in the pose given at 0\.5 is not guided"):
        interpolator.remake(tmp_path / "run", FrameKey(0, Fraction(1, 2)), Edit(pose=str(tmp_path / "two.json")))
    with pytest.warns(SegueWarning):
        interpolator.remake(tmp_path / "run", FrameKey(0, Fraction(3, 4)))


def test_a_pose_of_its_own_bends_the_path_of_descendants_only(
    interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled: list[FrameKey] = []
    drawn: dict[FrameKey, Pose | None] = {}

    def scale(settings: MorphSettings, key: FrameKey) -> torch.Tensor:
        scaled.append(key)
        return scale_at(settings, key)

    def control(pose: Pose | None, convention: Any, size: tuple[int, int], scale: torch.Tensor) -> Control:
        drawn[scaled[-1]] = pose
        return control_at(pose, convention, size, scale)

    monkeypatch.setattr("segue.engine.control.scale_at", scale)
    monkeypatch.setattr("segue.engine.control.control_at", control)
    settings = {**SETTINGS, "num_frames": 9, "pose": files(tmp_path, standing(5), standing(35))}
    interpolator(*keyframes, **settings, output=tmp_path / "run")
    before = dict(drawn)
    standing(2).save(tmp_path / "own.json")
    edited = interpolator.remake(
        tmp_path / "run", FrameKey(0, Fraction(1, 4)), Edit(pose=str(tmp_path / "own.json"), seed=0)
    )
    frames = [np.asarray(frame) for frame in edited.frames]
    for folder in ("frames", "pictures", "latents"):
        shutil.rmtree(tmp_path / "run" / folder)
    again = interpolator(*keyframes, **settings, output=tmp_path / "run")
    assert {key for key, pose in drawn.items() if pose != before[key]} == {
        FrameKey(0, Fraction(i, 8)) for i in (1, 2, 3)
    }
    for one, other in zip(frames, again.frames, strict=True):
        assert np.abs(one.astype(int) - np.asarray(other)).max() <= 2  # other batches


def test_a_pose_given_while_picking_is_kept_in_the_run(
    interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path
) -> None:
    standing(2).save(tmp_path / "own.json")
    answers: Iterator[Again | AcceptRest] = iter([Again(Edit(pose=str(tmp_path / "own.json"))), AcceptRest()])
    settings = {**SETTINGS, "pose": files(tmp_path, standing(5), standing(35))}
    interpolator(*keyframes, **settings, output=tmp_path / "run", choose=lambda _candidates: next(answers))
    (tmp_path / "own.json").unlink()
    line = json.loads((tmp_path / "run/journal.jsonl").read_text().splitlines()[0])
    assert Pose.load(tmp_path / "run" / line["edit"]["pose"]) == standing(2)
    plain = Interpolator(tiny_pipe())
    with pytest.raises(SegueError, match="a frame's pose needs a ControlNet"):
        plain(*keyframes, **SETTINGS, choose=lambda _candidates: Again(Edit(pose="own.json")))


def test_a_pose_that_would_change_nothing_is_refused(
    interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path
) -> None:
    standing(2).save(tmp_path / "own.json")
    Image.new("RGB", (64, 64), "white").save(tmp_path / "hint.png")
    plain = Interpolator(tiny_pipe())
    cases: list[tuple[Interpolator, dict[str, Any], str]] = [
        (plain, {}, "needs a ControlNet"),
        (interpolator, {"pose": "off"}, "a film with pose off"),
        (interpolator, {"control_image": [str(tmp_path / "hint.png")] * 2}, "a film with control images"),
    ]
    for number, (maker, settings, fault) in enumerate(cases):
        run = tmp_path / f"run-{number}"
        maker(*keyframes, **SETTINGS, **settings, output=run)
        with pytest.raises(SegueError, match=fault):
            maker.remake(run, FrameKey(0, Fraction(1, 4)), Edit(pose=str(tmp_path / "own.json")))
        assert not (run / "journal.jsonl").exists()


def test_control_images_are_faded(interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path) -> None:
    hints = [tmp_path / "black.png", tmp_path / "white.png"]
    for path, colour in zip(hints, ("black", "white"), strict=True):
        Image.new("RGB", (64, 64), colour).save(path)
    names = [str(path) for path in hints]
    plain = interpolator(*keyframes, **SETTINGS, pose="off")
    faded = interpolator(*keyframes, **SETTINGS, control_image=names)
    other = interpolator(*keyframes, **SETTINGS, control_image=names[::-1])
    pictures = [np.asarray(morph.frames[1]) for morph in (plain, faded, other)]
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])


@pytest.mark.parametrize(
    ("poses", "message"),
    [
        ([standing(5), Pose((), 64, 64)], "nobody|no person|no one"),
        ([standing(5)], "1 files for 2 keyframes"),
        ([standing(5), standing(5, people=2)], "2"),
    ],
)
def test_faults_of_given_poses_are_errors(
    interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path, poses: list[Pose], message: str
) -> None:
    with pytest.raises(SegueError, match=message):
        interpolator(*keyframes, **SETTINGS, pose=files(tmp_path, *poses), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_broken_pose_file_names_the_place(
    interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path
) -> None:
    paths = files(tmp_path, standing(5), standing(9))
    content = json.loads((tmp_path / "pose-1.json").read_text())
    content["people"][0]["pose_keypoints_2d"][4] = "left"
    (tmp_path / "pose-1.json").write_text(json.dumps(content))
    with pytest.raises(SegueError, match=r"pose-1\.json.*person 1"):
        interpolator(*keyframes, **SETTINGS, pose=paths, output=tmp_path / "run")


def _detect_with(monkeypatch: pytest.MonkeyPatch, *poses: Pose) -> None:
    found = iter(poses)
    monkeypatch.setattr("segue.engine.control.detector_of", lambda _name: lambda _image: next(found))


def test_auto_says_in_one_line_who_is_not_guided(
    interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = Pose((), 64, 64)
    plain = [np.asarray(frame) for frame in interpolator(*keyframes, **SETTINGS, pose="off").frames]

    _detect_with(monkeypatch, nobody, nobody)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", SegueWarning)
        morph = interpolator(*keyframes, **SETTINGS)
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(plain, morph.frames, strict=True))

    _detect_with(monkeypatch, standing(5), nobody)
    with pytest.warns(SegueWarning) as said:
        morph = interpolator(*keyframes, **SETTINGS)
    assert len([w for w in said if w.category is SegueWarning]) == 1
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(plain, morph.frames, strict=True))

    _detect_with(monkeypatch, standing(5), standing(15, people=2))
    with pytest.warns(SegueWarning) as said:
        morph = interpolator(*keyframes, **SETTINGS)
    assert len([w for w in said if w.category is SegueWarning]) == 1
    assert not np.array_equal(plain[2], np.asarray(morph.frames[2]))


def test_a_drawing_without_people_is_translated(
    interpolator: Interpolator, keyframes: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _detect_with(monkeypatch, Pose((), 64, 64), standing(5), Pose((), 64, 64), standing(20))
    interpolator(*keyframes, **SETTINGS, pose_via_photo=True, output=tmp_path / "run")
    photographs = sorted(path.name for path in (tmp_path / "run/pose").glob("*.png"))
    assert photographs == ["000.0000000-photograph.png", "001.0000000-photograph.png"]


ASTRONAUT = Path(__file__).parent / "data" / "pose" / "astronaut.png"


def test_that_nobody_guides_people_is_told_once_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Interpolator(tiny_pipe())

    def stop(*_args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segue.engine.interpolator.make", stop)
    with pytest.warns(SegueWarning) as caught, pytest.raises(KeyboardInterrupt):
        alone(ASTRONAUT, ASTRONAUT, **SETTINGS, output=tmp_path / "run")
    assert [str(warning.message) for warning in caught if issubclass(warning.category, SegueWarning)] == [
        "people are in the keyframes, but no ControlNet guides how they move; name one with controlnet, or pose off"
    ]


@pytest.mark.parametrize("settings", [{"pose": "off"}, {"scheme": "interpolate"}])
def test_nobody_is_told_what_changes_nothing(settings: dict[str, Any]) -> None:
    astronaut, nobody = load(ASTRONAUT), Image.new("RGB", (64, 64))
    tell_unguided(parse_settings(MorphSettings, settings), [astronaut, astronaut])  # a warning would be an error
    tell_unguided(parse_settings(MorphSettings, {}), [astronaut, nobody])
    tell_unguided(parse_settings(MorphSettings, {}), [nobody, astronaut])
    with pytest.warns(SegueWarning, match="people are in the keyframes"):
        tell_unguided(parse_settings(MorphSettings, {}), [astronaut, astronaut, nobody])


def test_people_of_photographs_are_found_and_fitted_to_the_network(interpolator: Interpolator, tmp_path: Path) -> None:
    settings = parse_settings(MorphSettings, {})
    shown = [load(ASTRONAUT), ImageOps.mirror(load(ASTRONAUT))]
    small = [fit(image, (64, 32), "stretch") for image in shown]
    with RunFolder(tmp_path / "run") as run:
        find_poses(run, settings, small, shown, interpolator.backbone)
    poses = [Pose.load(path) for path in sorted((tmp_path / "run/pose").glob("*.json"))]
    assert [pose.size for pose in poses] == [(64, 32), (64, 32)]
    noses = [pose.people[0].points[0, :2] for pose in poses]
    assert noses[0] == pytest.approx([111 / 4, 65 / 8], abs=2)
    assert noses[1] == pytest.approx([64 - 111 / 4, 65 / 8], abs=2)


def test_poses_need_a_controlnet(keyframes: list[Image.Image], tmp_path: Path) -> None:
    with pytest.raises(SegueError, match="ControlNet"):
        Interpolator(tiny_pipe())(*keyframes, **SETTINGS, pose=files(tmp_path, standing(5), standing(9)))
