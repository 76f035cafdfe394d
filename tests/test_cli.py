"""The command line as a user meets it: what it makes, and one line for whatever is wrong."""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw
from test_stills import write
from tiny import tiny_pipe

from segue import __version__
from segue.cli import app as cli
from segue.cli import morph as make
from segue.cli.app import run
from segue.engine.interpolator import Interpolator
from segue.method.tree import FrameKey
from segue.run.folder import RunFolder
from segue.run.journal import Edit

FRAMES = ["--num-frames", "5", "--num-inference-steps", "4", "--prompt", "cat"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint on disk."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipe().save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two pictures, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "green")):
        image = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).ellipse((8, 8, 50, 56), fill=colour)
        image.save(f"{name}.png")
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def folders(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir()}


def test_a_film_from_two_pictures(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["morph", "a.png", "b.png", "-o", "out/film.mp4", "--model", str(model), *FRAMES]
    assert run(command) == 0
    assert capsys.readouterr().out == "out/film.mp4: 5 frames; run folder out/film\n"
    with av.open("out/film.mp4") as film:
        assert sum(1 for _ in film.decode(video=0)) == round(24 * (0.5 + 4 / 3 + 0.5))
        assert film.streams.video[0].average_rate == 24
    assert (here / "out/film/contact-sheet.png").exists()
    first = Image.open("out/film/frames/000.0000000.png")
    assert np.array_equal(np.asarray(first), np.asarray(Image.open("a.png")))

    # The same again makes nothing; other film settings only write the film.
    frames = tree(here / "out/film/frames")
    assert run([*command, "--fps", "5", "--seconds", "0.8"]) == 0
    assert tree(here / "out/film/frames") == frames
    with av.open("out/film.mp4") as film:
        assert float(film.duration or 0) / 1e6 == pytest.approx(0.8 + 2 * 0.5, abs=0.11)

    # Other image settings are refused; the difference is shown, and nothing is changed.
    before = tree(here)
    capsys.readouterr()
    assert run([*command, "--seed", "3"]) == 2
    assert "seed: 0, now 3" in capsys.readouterr().err
    assert tree(here) == before
    assert run([*command, "--seed", "3", "--overwrite"]) == 0
    assert tree(here / "out/film/frames") != frames


@pytest.mark.parametrize(("name", "kind"), [("film.gif", "GIF"), ("film.webp", "WEBP")])
def test_films_of_other_kinds(here: Path, model: Path, name: str, kind: str) -> None:
    command = ["morph", "a.png", "b.png", "c.png", "-o", name, "--model", str(model), "--loop", *FRAMES]
    assert run(command) == 0
    with Image.open(name) as film:
        assert film.format == kind
        assert film.n_frames == 12  # type: ignore[attr-defined]


def test_a_folder_of_numbered_frames(here: Path, model: Path) -> None:
    assert run(["morph", "a.png", "b.png", "-o", "frames", "--model", str(model), *FRAMES]) == 0
    ticks = round(24 * (0.5 + 4 / 3 + 0.5))
    assert sorted(path.name for path in (here / "frames").iterdir()) == [f"{i:04d}.png" for i in range(ticks)]
    assert len({path.read_bytes() for path in (here / "frames").iterdir()}) == 5
    assert (here / "frames.run/run.json").exists()

    # What else was laid into the folder is not lost by a remake, which then notes nothing.
    (here / "frames" / "notes.txt").write_text("notes")
    before = tree(here)
    assert run(["remake", "frames.run", "--frame", "2"]) == 2
    assert tree(here) == before


def test_remake_undo_redo(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = os.path.relpath(model)
    assert run(["morph", "a.png", "b.png", "-o", "film.mp4", "--model", named, "--candidates", "2", *FRAMES]) == 0
    before = tree(here / "film/frames")
    assert run(["remake", "film.mp4", "--frame", "1", "--prompt", "dog", "--seed", "9"]) == 0
    after = tree(here / "film/frames")
    assert [name for name in before if before[name] != after[name]] == ["000.2500000.png"]
    assert run(["undo", "film.mp4"]) == 0
    assert tree(here / "film/frames") == before
    assert run(["redo", "film"]) == 0
    assert tree(here / "film/frames") == after
    with contextlib.chdir("film"):  # the model's folder was named as seen from elsewhere
        assert run(["undo", "."]) == 0
        assert tree(here / "film/frames") == before
        assert run(["redo", "."]) == 0
    capsys.readouterr()
    for command, message in (
        (["remake", "film.mp4", "--frame", "9"], "film has no frame 9"),
        (["remake", "film.mp4", "--frame", "0"], "frame 0 is a keyframe"),
        (["remake", "film.mp4", "--frame", "4"], "frame 4 is a keyframe"),
        (["remake", "film.mp4", "--frame", "1/4", "--candidate", "7"], "has candidates 0 to 3, not 7"),
        (["remake", "film.mp4", "--frame", "1/4", "--noise", "1.5"], "noise level lies between 0 and 1"),
        (["remake", "film.mp4", "--frame", "1/4", "--seed", "-1"], "seed lies between 0 and"),
        (["remake", "film.mp4", "--frame", "1/4", "--reset", "--noise", "0.5"], "--reset removes"),
        (["remake", "film.mp4", "--frame", "1/4", "--reset", "--candidate", "0"], "--reset removes"),
        (["remake", "film.mp4", "--frame", "1/4", "--pick", "--candidate", "0"], "it cannot be combined with --pick"),
        (["redo", "film.mp4"], "nothing to redo"),
        (["undo", "nothing.mp4"], "nothing.mp4 is not a film"),
    ):
        assert run(command) == 2
        assert message in capsys.readouterr().err
    assert tree(here / "film/frames") == after

    # Made again as it is, the frame keeps its own words; with --reset it has nothing of its own.
    for options, prompt in ([], "dog"), (["--reset"], None):
        assert run(["remake", "film.mp4", "--frame", "1", *options]) == 0
        with RunFolder(here / "film") as folder:
            assert folder.history.edit(FrameKey(0, Fraction(1, 4))) == Edit(prompt=prompt)


def test_a_redo_adds_to_what_the_frame_has_of_its_own(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit_of() -> Edit:
        with RunFolder(here / "film") as film:
            return film.history.edit(FrameKey(0, Fraction(1, 2)))

    assert run(["morph", "a.png", "b.png", "-o", "film.mp4", "--model", str(model), *FRAMES]) == 0
    assert run(["remake", "film.mp4", "--frame", "1/2", "--prompt", "dog", "--seed", "9"]) == 0
    capsys.readouterr()
    assert run(["remake", "film.mp4", "--frame", "1/2", "--noise", "0.5", "--seed", "3"]) == 0
    assert "segue: frame 0.5 keeps its own prompt; segue remake --reset removes" in capsys.readouterr().err
    assert edit_of() == Edit(prompt="dog", seed=3, noise=0.5)
    assert run(["remake", "film.mp4", "--frame", "1/2", "--reset"]) == 0
    assert edit_of() == Edit()


def test_a_film_that_segue_did_not_make_is_not_replaced(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "precious.mp4").write_text("precious")
    (here / "shots").mkdir()
    (here / "shots" / "0000.png").write_text("precious")
    before = tree(here)
    for output in ("precious.mp4", "shots"):
        assert run(["morph", "a.png", "b.png", "-o", output, "--model", str(model), *FRAMES]) == 2
        check_line(capsys, f"{output} exists and is not a film of ")
    assert tree(here) == before
    assert run(["morph", "a.png", "b.png", "-o", "precious.mp4", "--model", str(model), *FRAMES, "--overwrite"]) == 0
    for _ in range(2):  # which is its own from now on
        assert run(["morph", "a.png", "b.png", "-o", "precious.mp4", "--model", str(model), *FRAMES]) == 0
    (here / "precious.gif").write_text("precious")
    capsys.readouterr()
    assert run(["morph", "a.png", "b.png", "-o", "precious.gif", "--model", str(model), *FRAMES]) == 2
    check_line(capsys, "precious.gif exists and is not a film of precious; choose another output")
    assert (here / "precious.gif").read_text() == "precious"


def test_a_redo_that_fails_says_that_it_is_noted(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["morph", "a.png", "b.png", "-o", "film.mp4", "--model", str(model), *FRAMES]) == 0

    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save_latents", full)
        assert run(["remake", "film.mp4", "--frame", "1/2"]) == 2
    assert "No space left on device; the same command continues the film; the frame is made by" in (
        capsys.readouterr().err
    )


def test_nobody_is_asked_about_a_finished_film(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["morph", "a.png", "b.png", "-o", "film.mp4", "--model", str(model), "--candidates", "2", *FRAMES]
    assert run(command) == 0
    assert run([*command, "--pick"]) == 0
    assert "segue: all frames were already chosen, so there was nothing to pick; segue " in capsys.readouterr().err


def test_the_candidates_of_a_preset_stay_when_nobody_picks_any_more(
    here: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["morph", "a.png", "b.png", "-o", "film.mp4", "--model", str(model), "--preset", "paper", *FRAMES]
    command += ["--inversion", "0", "--num-inference-steps", "4"]
    monkeypatch.setattr("builtins.input", lambda *_prompt: "1")
    assert run([*command, "--pick"]) == 0
    made = tree(here / "film" / "frames")
    assert run([*command, "--fps", "24"]) == 0
    assert tree(here / "film" / "frames") == made


def test_quiet_says_nothing_but_errors(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "morph",
        "a.png",
        "b.png",
        "-o",
        "film.mp4",
        "--model",
        str(model),
        *FRAMES,
        "--set",
        "inversion_batch=2",
    ]
    assert run([*command, "--quiet"]) == 0
    assert run(["remake", "film.mp4", "--frame", "1/2", "--prompt", "dog", "--quiet"]) == 0
    assert run(["remake", "film.mp4", "--frame", "1/2", "--noise", "0.1", "--quiet"]) == 0
    assert run([*command, "--quiet", "--pick"]) == 0
    assert capsys.readouterr() == ("", "")
    assert run(command) == 0
    assert "segue: inversion_batch changes nothing without --inversion" in capsys.readouterr().err


def test_a_name_that_is_too_long_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["morph", "a.png", "b.png", "-o", "film.mp4", "--model", f"{'x' * 300}/y"]) == 2
    assert f"{'x' * 300}/y" in capsys.readouterr().err


def test_standard_output_that_cannot_be_written() -> None:
    """In a process of its own: what is full, and a reader that goes away."""
    code = "from segue.cli.app import main; main()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code, "models"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == b"segue: standard output cannot be written: No space left on device"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code, "models"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_loop_has_no_frame_for_its_end(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["morph", "a.png", "b.png", "-o", "film.mp4", "--model", str(model), "--loop", *FRAMES]) == 0
    capsys.readouterr()
    assert run(["remake", "film.mp4", "--frame", "8"]) == 2
    check_line(capsys, "film has no frame 8; frames are numbered 0 to 7")


def test_another_precision_is_named(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["morph", "a.png", "b.png", "-o", "film.mp4", "--model", str(model), *FRAMES, "--dtype"]
    assert run([*command, "float32"]) == 0
    capsys.readouterr()
    assert run([*command, "bfloat16"]) == 2
    check_line(capsys, "with other settings (dtype: float32, now bfloat16)")
    assert run(["remake", "film.mp4", "--frame", "2", "--dtype", "bfloat16"]) == 2
    check_line(capsys, "in float32 (weights ")


def test_questions_are_not_asked_on_standard_output(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\nr\n"))
    pick = ["--candidates", "2", "--pick", "--json"]
    assert run(["morph", "a.png", "b.png", "-o", "film.mp4", "--model", str(model), *FRAMES, *pick]) == 0
    said = capsys.readouterr()
    assert [json.loads(line) for line in said.out.splitlines()][-1]["stage"] == "done"
    assert "candidate [0], or ? for help: " in said.err


def test_words_are_fitted_before_the_film_is_made(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted = ["a.png", "b.png", "-o", "film.mp4", "--model", str(model), "--inversion", "2", *FRAMES]
    assert run(["invert", *fitted, "--preset", "draft"]) == 0
    assert "the words are fitted" in capsys.readouterr().out
    assert not (here / "film.mp4").exists()
    words = tree(here / "film/words")
    assert words
    assert run(["morph", *fitted, "--preset", "draft"]) == 0
    assert tree(here / "film/words") == words
    capsys.readouterr()
    assert run(["invert", *fitted, "--preset", "draft", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()][-1] == {"stage": "done", "run": "film"}
    assert (here / "film.mp4").exists()


def test_a_copy_beside_a_film_leaves_the_film(here: Path, model: Path) -> None:
    assert run(["morph", "a.png", "b.png", "-o", "film.gif", "--model", str(model), *FRAMES]) == 0
    original = (here / "film.gif").read_bytes()
    shutil.copy("film.gif", "copy.gif")
    shutil.copytree("film", "copy")
    assert run(["remake", "copy.gif", "--frame", "2"]) == 0
    assert (here / "copy.gif").read_bytes() != original
    assert run(["remake", "copy", "--frame", "2"]) == 0
    assert (here / "film.gif").read_bytes() == original
    assert run(["undo", "film.gif"]) == 2  # it was never made again


def test_a_film_and_its_run_folder_move_together(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["morph", "a.png", "b.png", "-o", "film.gif", "--model", str(model), *FRAMES]) == 0
    original = (here / "film.gif").read_bytes()
    copy = here / "copy"
    copy.mkdir()
    shutil.copy("film.gif", copy)
    shutil.copytree("film", copy / "film")
    capsys.readouterr()
    assert run(["remake", "copy/film.gif", "--frame", "2"]) == 0
    assert capsys.readouterr().out == "copy/film.gif: 5 frames; run folder copy/film\n"
    assert (copy / "film.gif").read_bytes() != original
    assert (here / "film.gif").read_bytes() == original

    # A film of another name is written with the settings of the one that was written last.
    (copy / "film.gif").unlink()
    assert run(["undo", "copy/film.webp"]) == 0
    with Image.open(copy / "film.webp") as film:
        assert film.n_frames == 5  # type: ignore[attr-defined]


def test_damaged_runs_get_one_line(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["morph", "a.png", "b.png", "-o", "film.gif", "--model", str(model), *FRAMES]
    assert run(command) == 0
    capsys.readouterr()
    for name in ("run.json", "state.json", "films.json"):
        path = here / "film" / name
        whole = path.read_bytes()
        for broken in (b"{", b"[]", *([b"{}"] if name != "films.json" else [])):
            path.write_bytes(broken)
            assert run(["remake", "film.gif", "--frame", "2"] if name != "films.json" else command) == 2
            check_line(capsys, f"film/{name} is damaged")
        path.write_bytes(whole)

    # Damaged pictures are named; without them the same command makes them again.
    for picture in (*(here / "film/pictures").glob("000.5000000-*"), here / "film/frames/001.0000000.png"):
        whole = picture.read_bytes()
        picture.write_bytes(whole[:60])
        assert run(command) == 2
        assert f"{picture.relative_to(here)} is damaged" in capsys.readouterr().err
        picture.unlink()
        assert run(command) == 0
        assert picture.read_bytes() == whole


@pytest.mark.parametrize("output", ["a.gif", "run.mp4", "shots"])
def test_no_picture_is_replaced_by_a_film(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    for name in ("a.gif", "run/frames/a.png", "shots/0000.png"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open("a.png").save(name)
    before = tree(here)
    names = ["a.gif", "run/frames/a.png", "shots/0000.png"]
    assert run(["morph", *names, "-o", output, "--model", str(model), *FRAMES]) == 2
    check_line(capsys, f"{output.removesuffix('.mp4')} would replace ")
    assert tree(here) == before


def test_an_interrupt_says_how_to_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_arguments: object, **_keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "make_film", interrupt)
    assert run(["morph", "a.png", "b.png", "-o", "film.mp4"]) == 130
    check_line(capsys, "stopped; run the same command again to continue")


def test_an_interrupted_redo_is_told_of_once_it_is_begun(
    here: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["morph", "a.png", "b.png", "-o", "film.gif", "--model", str(model), *FRAMES]) == 0

    def interrupt(*_arguments: object, **_keywords: object) -> None:
        raise KeyboardInterrupt

    for part, told in (("remake", False), ("make", True)):
        with monkeypatch.context() as patched:
            patched.setattr(Interpolator, part, interrupt)
            capsys.readouterr()
            assert run(["remake", "film.gif", "--frame", "2"]) == 130
        said = capsys.readouterr().err
        assert ("segue undo takes it back" in said) == told
        assert said.endswith("segue: stopped\n")
    assert run(["undo", "film.gif"]) == 0


def test_a_film_that_was_being_overwritten_is_found(here: Path, model: Path) -> None:
    """A kill before the new run has a frame, and one while it takes the old one's place."""
    assert run(["morph", "a.png", "b.png", "-o", "film.gif", "--model", str(model), *FRAMES]) == 0
    assert run(["remake", "film.gif", "--frame", "2"]) == 0
    with RunFolder(here / "film") as folder:
        folder.set_aside()
    assert run(["undo", "film.gif"]) == 0
    shutil.copytree(here / "film", here / "other", ignore=shutil.ignore_patterns(".new", "lock"))
    shutil.move(here / "other", here / "film/.ready")
    assert run(["redo", "film.gif"]) == 0
    assert not (here / "film/.ready").exists()
    assert not (here / "film/.new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["figure.png", "-o", "figure.png"], "figure.png: the name of what is written here ends in .json"),
        (["figure.png", "--draw", "drawn.jpg"], "drawn.jpg: the name of what is written here ends in .png"),
        (["figure.png", "--draw", "figure.png"], "figure.png would replace figure.png"),
        (["pose.json", "pose.json", "--between", "-o", "pose.json"], "pose.json"),
        (["pose.json", "pose.json", "--between", "-o", "way.mp4", "--draw", "way.png"], "--draw takes a picture"),
        (["figure.gif", "pose.json", "--between", "-o", "figure.gif"], "figure.gif would replace figure.gif"),
    ],
)
def test_no_picture_is_replaced_by_its_pose(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    for name in ("figure.png", "figure.gif"):
        Image.open("a.png").save(name)
    (here / "pose.json").write_text("{}")
    before = tree(here)
    assert run(["pose", *arguments]) == 2
    check_line(capsys, message)
    assert tree(here) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["p.JSON"], "p.JSON is a pose file, which only --between takes"),
        (["a.png", "--matching", "nearest"], "--matching goes with --between"),
        (["a.png", "-n", "5"], "--num-frames goes with --between"),
    ],
)
def test_what_only_goes_between_poses(
    here: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pose", *options]) == 2
    check_line(capsys, message)


def test_a_pose_is_written_and_drawn_into_new_folders(here: Path) -> None:
    assert run(["pose", "a.png", "-o", "new/pose.json", "--draw", "other/new/drawn.png"]) == 0
    assert {"new/pose.json", "other/new/drawn.png"} <= tree(here).keys()


def test_json_lines(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["morph", "a.png", "b.png", "-o", "f.gif", "--model", str(model), "--json", *FRAMES]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] | {"total": 3, "levels": 2, "frames": 0} == lines[0]
    assert [line["frame"] for line in lines[:-1] if line["frame"]] == ["1/2", "1/4", "3/4"]
    assert lines[-1] == {"stage": "done", "film": "f.gif", "run": "f", "frames": 5}
    steps = [line["step"] for line in lines if line["stage"] == "frames"]
    assert steps == sorted(steps)
    assert steps[-1] == lines[0]["steps"]


def bad_pictures(folder: Path) -> dict[str, str]:
    """Pictures that cannot be used, and what the one line says of each."""
    whole = folder / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    (folder / "folder").mkdir()
    (folder / "text.png").write_text("no picture")
    (folder / "truncated.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (folder / "empty.png").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    return {
        "missing.png": "missing.png",
        "folder": "folder",
        "text.png": "text.png",
        "truncated.jpg": "truncated.jpg",
        "empty.png": "empty.png",
        "pixel.png": "1 x 1",
        "bomb.png": "bomb.png",
    }


def test_bad_pictures_get_one_line_and_leave_nothing(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = bad_pictures(here)
    before, before_folders = tree(here), folders(here)
    for name, message in pictures.items():
        assert run(["morph", "a.png", name, "-o", "out/film.mp4", "--model", str(model), *FRAMES]) == 2
        check_line(capsys, message)
        assert (tree(here), folders(here)) == (before, before_folders)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "film.avi"], "film.avi"),
        (["-o", "a.png/film.mp4"], "a.png"),
        (["-o", "film.mp4", "--num-frames", "2"], "num_frames"),
        (["-o", "film.mp4", "--num-frames", "many"], "num_frames"),
        (["-o", "film.mp4", "--noise", "0", "0.5"], "noise"),
        (["-o", "film.mp4", "--noise", "0.3", "1"], "noise"),
        (["-o", "film.mp4", "--noise", "0.6", "0.3"], "noise"),
        (["-o", "film.mp4", "--noise", "0.5", "0.4", "0.3", "--num-frames", "17"], "noise levels"),
        (["-o", "film.mp4", "--scheme", "magic"], "magic"),
        (["-o", "film.mp4", "--model", "magic"], "magic"),
        (["-o", "film.mp4", "--device", "toaster"], "toaster"),
        (["-o", "film.mp4", "--set", "network-size=100x100"], "width"),
        (["-o", "film.mp4", "--set", "network_size=16384x16384"], "frames of 16384 x 16384 pixels are too large"),
        (["-o", "film.mp4", "--background", "greenish"], "greenish"),
        (["-o", "film.mp4", "--prompt", ""], "prompt"),
        (["-o", "film.mp4", "--prompt", "a", "--prompt", "b", "--prompt", "c"], "3 prompts for 2 keyframes"),
        (["-o", "film.mp4", "--prompt-at", "1.5=x"], "prompt_at 1.5"),
        (["-o", "film.mp4", "--prompt-at", "half"], "prompt_at"),
        (["-o", "film.mp4", "--prompt-at", "0.5=a", "--prompt-at", "0.50=b"], "two texts for the place 0.5"),
        (["-o", "film.mp4", "--easing", "even:resnet"], "unknown feature network 'resnet'"),
        (["-o", "film.mp4", "--rank-for", "cat"], "candidates"),
        (["-o", "film.mp4", "--set", "eta=0.2"], "eta"),
        (["-o", "film.mp4", "--eta", "0.2"], "no such option --eta; it is a setting: --set eta=VALUE"),
        (["-o", "film.mp4", "--set", "stepz=9"], "unknown setting 'stepz'"),
        (["-o", "film.mp4", "--set", "steps=9"], "unknown setting 'steps'; did you mean num_inference_steps?"),
        (["-o", "film.mp4", "--set", "eta"], "--set takes NAME=VALUE"),
        (["-o", "film.mp4", "--config", "none.toml"], "none.toml cannot be read"),
        (["-o", "film.mp4", "--easing", "bounce"], "bounce"),
        (["-o", "film.mp4", "--pose", "nobody.json,nobody.json"], "nobody.json: No such file"),
        (["-o", "film.mp4", "--preset", "best"], "best"),
        (
            ["-o", "film.mp4", "--preset", "fast"],
            "preset fast: no name of tiny, its adapters or scheduler tells of lcm,",
        ),
        (["-o", "film.mp4", "--unknown", "1"], "--unknown"),
        ([], "output"),
    ],
)
def test_bad_options_get_one_line_and_leave_nothing(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before, before_folders = tree(here), folders(here)
    own_model = [] if "--model" in arguments else ["--model", str(model)]
    assert run(["morph", "a.png", "b.png", *own_model, *arguments]) == 2
    check_line(capsys, message)
    assert (tree(here), folders(here)) == (before, before_folders)


def test_other_checkpoints_are_refused(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, pickled = here / "other", here / "pickled"
    shutil.copytree(model, other)
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"_class_name": "PixArtSigmaPipeline"}))
    shutil.copytree(model, pickled)
    (pickled / "unet/diffusion_pytorch_model.safetensors").rename(pickled / "unet/diffusion_pytorch_model.bin")
    (here / "weights.ckpt").write_bytes(b"")
    before = tree(here)
    for name, message in (
        ("other", "PixArtSigmaPipeline"),
        ("pickled", "pickled"),
        ("weights.ckpt", "weights.ckpt"),
        (str(here), "model_index.json"),
    ):
        assert run(["morph", "a.png", "b.png", "-o", "film.mp4", "--model", name, *FRAMES]) == 2
        check_line(capsys, message)
        assert tree(here) == before


def test_odd_pictures_are_accepted(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.open("a.png").convert("CMYK").save("cmyk.jpg")
    Image.fromarray(np.full((40, 64), 30_000, dtype=np.uint16)).save("deep.png")
    Image.open("b.png").convert("P").save("palette.png", transparency=0)
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save("animated.gif", save_all=True, append_images=frames[1:])
    names = ["cmyk.jpg", "deep.png", "palette.png", "animated.gif"]
    arguments = ["--num-frames", "3", "--num-inference-steps", "2", "--prompt", "cat"]
    assert run(["morph", *names, "-o", "film.webp", "--model", str(model), *arguments]) == 0
    assert "animated.gif has 2 frames" in capsys.readouterr().err
    with Image.open("film.webp") as film:
        assert film.n_frames == 7  # type: ignore[attr-defined]


def test_help_version_and_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
    assert run([]) == 2
    assert re.search(r"^Usage: [^\n]+\n(.*\n)+ +morph ", capsys.readouterr().out, re.MULTILINE)
    assert run(["morph", "--help"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"--num-frames <int>\s+Frames from one keyframe", text)
    # What is chosen first stands first.
    places = [
        text.index(f"\n  {option} ") for option in ("--num-frames", "--prompt", "--inversion", "--fps", "--model")
    ]
    assert places == sorted(places)
    assert run(["models"]) == 0
    assert capsys.readouterr().out.startswith("pocket ")


def check_line(capsys: pytest.CaptureFixture[str], message: str) -> None:
    """One line on standard error, which begins with the program's name and names the fault."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"segue: [^\n]+\n", captured.err), captured.err
    assert message in captured.err


def test_a_name_that_the_terminal_has_no_letters_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(said, encoding="ascii"))
    monkeypatch.setattr(cli, "run", lambda _arguments: print("straße\udce9.mp4: 3 frames", flush=True))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code is None
    assert said.getvalue() == b"stra\\xdfe\\udce9.mp4: 3 frames\n"


def test_a_film_does_not_replace_the_video_it_begins_with(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "clip.mp4")
    assert run(["morph", "clip.mp4@last", "b.png", "-o", "clip.mp4"]) == 2
    check_line(capsys, "clip.mp4 would replace clip.mp4; choose another output")


def test_a_run_folder_holds_the_settings_that_make_its_film_again(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["morph", "a.png", "b.png", "-o", "film.gif", "--model", str(model), *FRAMES, "--noise", "0.3", "0.4"]
    assert run([*command, "--prompt-at", "1/2=a [lynx]", "--set", "bias=0.2", "--no-align", "--fps", "5"]) == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert run(["morph", "--config", "../film/settings.toml", "-o", "again.gif"]) == 0
    assert (here / "elsewhere/again.gif").read_bytes() == (here / "film.gif").read_bytes()
    names = [path.name for path in (here / "film/frames").iterdir()]
    for name in names:
        assert (here / "elsewhere/again/frames" / name).read_bytes() == (here / "film/frames" / name).read_bytes()
    before = (here / "film/settings.toml").read_bytes()
    (here / "film.gif").unlink()
    capsys.readouterr()
    assert run(["morph", "--config", "../film/settings.toml"]) == 0  # finished, and written where it was
    assert (here / "film.gif").read_bytes() == (here / "elsewhere/again.gif").read_bytes()
    assert (here / "film/settings.toml").read_bytes() == before
    assert run(["morph", "--config", "../film/settings.toml", "--fps", "10"]) == 0
    assert tomllib.loads((here / "film/settings.toml").read_text())["film"]["fps"] == 10


def test_what_is_typed_goes_before_a_settings_file(here: Path, model: Path) -> None:
    (here / "own.toml").write_text(
        f'model = {json.dumps(str(model))}\noutput = "own.gif"\nimages = ["a.png", "b.png"]\n'
        'num_frames = 9\npreset = "draft"\nnoise = "0.3 0.5"\n'
        '[words]\nprompt = ["a cat"]\nprompt_at = {"1/2" = "a lynx"}\n'
    )
    assert (
        run(["morph", "--config", "own.toml", "--num-frames", "3", "--set", "bias=0", "--num-inference-steps", "2"])
        == 0
    )
    settings = json.loads((here / "own/run.json").read_text())["settings"]
    assert (settings["num_frames"], settings["noise"], settings["prompt"]) == (3, [0.3, 0.5], ["a cat"])
    assert settings["prompt_at"] == {"0.5": "a lynx"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_frams = 9", "bad.toml: unknown setting 'num_frams'; did you mean num_frames?"),
        ("[frames]\nsteps = 9", "bad.toml: unknown setting 'steps'; did you mean num_inference_steps?"),
        ("[pictures]\nnum_frames = 9", "bad.toml: unknown setting 'pictures'"),
        ("num_frames = ", "bad.toml is not a TOML file"),
        ("num_frames = 2", "num_frames: "),
        ("images = 5", "bad.toml: images is a text, or for images a list of texts, not 5"),
    ],
)
def test_a_wrong_settings_file_gets_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (here / "bad.toml").write_text(text)
    images = [] if "images" in text else ["a.png", "b.png"]
    assert run(["morph", *images, "-o", "film.gif", "--config", "bad.toml"]) == 2
    check_line(capsys, message)
