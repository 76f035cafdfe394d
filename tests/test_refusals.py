"""What is wrong is refused, and what needs no model answered, before torch is imported."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.refusals import COMMANDS, prepare
from segue.cli.app import run
from segue.errors import SegueError
from segue.film.outputs import ENDINGS
from segue.film.writers import WRITERS
from segue.settings.kinds import (
    ALIASES,
    ALL,
    GROUPS,
    HIDDEN,
    RARE,
    SCHEMES,
    ComputeSettings,
    FilmSettings,
    ModelSettings,
    MorphSettings,
    fields,
    parse_settings,
)

SOURCE = Path(__file__).parents[1] / "src" / "segue"
ALL_AT_ONCE = """
import contextlib, io, json, sys
import segue.cli.app
found = {}
for name, command in json.loads(sys.argv[1]).items():
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = segue.cli.app.run(command)
    heavy = [module for module in ("torch", "diffusers", "transformers", "av", "gradio") if module in sys.modules]
    found[name] = [code, heavy, said.getvalue()]
print(json.dumps(found))
"""


def test_no_refusal_and_no_help_imports_torch(tmp_path: Path) -> None:
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", ALL_AT_ONCE, json.dumps(COMMANDS)],
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert {name: heavy for name, (_, heavy, _) in found.items() if heavy} == {}
    answered = {"version", "help", "help of morph", "models"}
    assert {name: code for name, (code, _, _) in found.items()} == {n: 0 if n in answered else 2 for n in COMMANDS}
    assert sorted(tmp_path.rglob("*")) == before
    for name, told in {
        "missing picture": "segue: missing.png: no such file",
        "unknown ending": "segue: film.avi: unknown ending .avi",
        "2 frames": "num_frames: input should be greater than or equal to 3, not '2'",
        "missing pose": "a.json: No such file",
        "unknown model": "unknown model 'nowhere'",
        "missing LoRA": "ink.safetensors is not a LoRA: no such file",
        "pickled adapter": "ip-adapter.bin is a pickle, which can run code",
        "image prompt": "--image-prompt needs an IP-Adapter; name one with --image-adapter",
        "unknown device": "device 'gpu' is not available",
        "remake of no frame": "film has no frame 99",
        "nothing to undo": "film has nothing to undo",
        "studio's port": "less than or equal to 65535",
    }.items():
        assert told in found[name][2], found[name]


def test_light_modules_import_no_torch() -> None:
    modules = ["segue", "segue.settings.kinds", "segue.run.journal", "segue.engine.inputs", "segue.cli.evaluate"]
    code = f"import sys, {', '.join(modules)}; print({{'torch', 'diffusers'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_no_file_needs_an_operating_system() -> None:
    for file in SOURCE.rglob("*.py"):
        assert not re.search(r"^\s*(import|from) (fcntl|resource|pwd|grp|termios)\b", file.read_text(), re.MULTILINE)


def test_the_endings_are_those_that_can_be_written() -> None:
    assert set(ENDINGS) == set(WRITERS)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--steps", "--num-inference-steps"),
        ("--cfg", "--guidance-scale"),
        ("--cfg-scale", "--guidance-scale"),
        ("--guidance", "--guidance-scale"),
        ("--strength", "--noise"),
        ("--frames", "--num-frames"),
        ("-n", "--num-frames"),
        ("--neg", "--negative-prompt"),
        ("--negative", "--negative-prompt"),
        ("--num-frame", "--num-frames"),
    ],
)
def test_names_of_other_programs_are_understood(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["morph", "a.png", "b.png", "--output", "film.mp4", typed, "7"]) == 2
    assert capsys.readouterr().err == f"segue: no such option {typed}; did you mean {meant}?\n"
    assert run(["remake", "a.mp4", "--frame", "1", "--nonsense"]) == 2
    assert capsys.readouterr().err == "segue: no such option --nonsense; see segue remake --help\n"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("steps", "did you mean num_inference_steps?"),
        ("generator", "did you mean seed?"),
        ("callback_on_step_end", "did you mean callback?"),
        ("strength", "did you mean noise?"),
        ("num_images_per_prompt", "did you mean candidates?"),
        ("num_frame", "did you mean num_frames?"),
        ("fps", "fps is the film's: save(path, fps=...)"),
    ],
)
def test_so_are_they_in_the_library(name: str, told: str) -> None:
    with pytest.raises(SegueError) as error:
        parse_settings(MorphSettings, {name: 7})
    assert str(error.value) == f"unknown setting '{name}'; {told}"


def test_every_alias_and_group_names_what_there_is() -> None:
    kinds = (MorphSettings, ComputeSettings, FilmSettings, ModelSettings)
    known = {name for kind in kinds for name in fields(kind)}
    assert set(ALIASES.values()) - known == {"callback"}
    assert not set(ALIASES) & known
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(ALL) == sorted(known)
    assert known >= RARE | HIDDEN
    assert not RARE & HIDDEN


def test_help_comes_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["morph", "-h"]) == 0
    text = capsys.readouterr().out
    groups = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    own = ["Arguments", "Options"]
    assert groups == [*own, "Frames", "Words", "Poses and control", "Camera", "Film", "Model", "Computing"]
    assert len(re.findall(r"^  (?:-\w, )?--", text, re.MULTILINE)) <= 47
    parts = dict(zip(groups, re.split(r"^\w[\w ]*:$", text, flags=re.MULTILINE)[1:], strict=True))
    for group, option in (("Frames", "--num-frames"), ("Words", "--prompt"), ("Film", "--fps"), ("Camera", "--zoom"),
                          ("Model", "--model"), ("Computing", "--device"), ("Options", "-h, --help")):  # fmt: skip
        assert f"  {option} " in parts[group]
    for command in ("remake", "undo", "redo", "invert", "pose", "check", "batch", "evaluate", "studio", "models"):
        assert run([command, "-h"]) == 0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("segue rem", ["remake"]),
        ("segue morph --scheme ", [*SCHEMES]),
        ("segue morph --num", ["--num-frames", "--num-inference-steps"]),
    ],
)
def test_shells_complete_commands_options_and_values(words: str, found: list[str]) -> None:
    environment = {
        **os.environ,
        "_SEGUE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    code = "import sys; sys.argv = ['segue']; from segue.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == found
