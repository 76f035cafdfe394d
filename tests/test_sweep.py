"""The sheet of noise levels and guidance scales, and the command that it ends with."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import contents, picture
from tiny import tiny_pipe

from segue.cli.app import run
from segue.cli.sweep import Cell, words_of_morph
from segue.run.schema import RUN_FILE, read_part

VALUES = ["--noise", "0.3", "0.5", "--guidance-scale", "1", "3"]
QUICK = ["--num-inference-steps", "4", "--prompt", "a cat", "--no-align", "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_pipe().save_pretrained("tiny")
    for number, name in enumerate(("a.png", "b.png")):
        picture(number + 1, (64, 64)).save(name)
    return tmp_path


def test_a_sheet_is_made_continued_and_ends_with_a_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "a.png", "b.png", "-o", "sheet.png", "--model", "tiny", *VALUES, *QUICK]
    assert run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    # Legs of 2 and of 3 steps, for two guidance scales.
    assert lines[0] == "4 frames, 4 of them to make: at most 10 denoising steps"
    assert lines[1] == "sheet.png: a row per noise level, a column per guidance scale; runs in sheet"
    assert lines[2] == "the film of a cell, such as noise 0.5, guidance 1:"
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (4 * 68 + 4, 2 * (64 + 16 + 4) + 4)
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    cells = [[pixels[r * 84 + 4 : r * 84 + 68, c * 68 + 4 : c * 68 + 68] for c in range(4)] for r in range(2)]
    with Image.open("a.png") as a, Image.open("b.png") as b:
        for row in cells:
            assert np.array_equal(row[0], np.asarray(a))
            assert np.array_equal(row[3], np.asarray(b))
    made = [cells[r][c] for r in range(2) for c in (1, 2)]
    assert all(np.abs(made[i] - made[j]).max() > 2 for i in range(4) for j in range(i))
    settings = (read_part(here / "sheet/noise-0.5-guidance-3", RUN_FILE) or {})["settings"]
    assert (settings["noise"], settings["guidance_scale"], settings["num_frames"]) == ([0.5, 0.5], 3.0, 3)

    # Another value costs its own frames; the others stay as they are.
    before = contents(here / "sheet")
    assert run([*command, "--noise", "0.3", "0.5", "0.6"]) == 0
    assert "6 frames, 2 of them to make" in capsys.readouterr().out
    assert contents(here / "sheet").items() >= before.items()

    # The command makes the film of the cell.
    assert run(shlex.split(lines[3])[1:]) == 0
    film = (read_part(here / "film", RUN_FILE) or {})["settings"]
    assert film == {**settings, "guidance_scale": 1.0, "num_frames": 17}


def test_other_settings_in_the_folder_are_refused_unless_overwritten(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "a.png", "b.png", "-o", "sheet.png", "--model", "tiny", *QUICK, "--noise", "0.3"]
    assert run([*command, "--guidance-scale", "1", "-q"]) == 0
    assert run([*command, "--guidance-scale", "1", "-q", "--seed", "5"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert run([*command, "--guidance-scale", "1", "-q", "--seed", "5", "--overwrite"]) == 0
    assert capsys.readouterr().out == ""


def test_wrong_inputs_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["a.png", "-o", "s.png"], "sweep takes two images, not 1"),
        (["a.png", "b.png"], "--output names the sheet"),
        (["a.png", "b.png", "-o", "s.mp4"], "s.mp4: a sheet is a .png"),
        (["a.png", "b.png", "-o", "a.png"], "would replace"),
        (["a.png", "b.png", "-o", "s.png", "--noise", "1.5"], "noise: input should be less than 1, not 1.5"),
        (["a.png", "b.png", "-o", "s.png", "--num-frames", "5"], "--num-frames is not an option of sweep"),
        (["a.png", "b.png", "-o", "s.png", "--set", "noise=0.5"], "--set noise: this command has an option for it"),
        (["a.png", "c.png", "-o", "s.png"], "c.png: no such file"),
        (["b.png", "b.png", "-o", "a.png"], "a.png exists and is not a sheet of sweep; --overwrite"),
    ):
        assert run(["sweep", *words]) == 2
        assert said in capsys.readouterr().err
    assert sorted(path.name for path in here.iterdir()) == ["a.png", "b.png", "tiny"]


def test_the_command_has_everything_that_was_typed() -> None:
    values = {
        "prompt": ["a cat", "a dog"],
        "prompt_at": {0.5: "a fox"},
        "align": False,
        "zoom": ["2", "3"],
        "model": "my model",
        "rank_against": ["dull"],
        "inversion_guidance": True,
    }
    words = words_of_morph([Path("a.png"), Path("b c.png")], values, "draft", Cell(0.4, 3.0))
    assert words == (
        "segue morph a.png 'b c.png' -o film.mp4 --noise 0.4 --guidance-scale 3 --preset draft --prompt 'a cat' "
        "--prompt 'a dog' --prompt-at '0.5=a fox' --no-align --zoom 2 3 --model 'my model' "
        "--set rank_against=dull --set inversion_guidance=on"
    )
