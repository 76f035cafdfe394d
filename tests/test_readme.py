"""What the README and the docs say works."""

import pkgutil
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest

import segue
from segue.batch.manifest import pairs_and_faults
from segue.cli.app import run
from segue.film.outputs import check_film
from segue.settings.kinds import HIDDEN
from segue.settings.text import option_name

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_example_is_the_readme_s_and_makes_a_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippet = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert snippet == [(ROOT / "examples/morph.py").read_text()]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    make, quick = segue.Interpolator.__call__, {"num_frames": 3, "num_inference_steps": 2}
    monkeypatch.setattr(segue.Interpolator, "__call__", lambda *given, **named: make(*given, **{**named, **quick}))
    runpy.run_path(str(ROOT / "examples/morph.py"))
    assert (tmp_path / "morph.mp4").stat().st_size > 1000
    check_film(tmp_path / "morph.mp4")


def test_every_option_of_the_pages_exists(capsys: pytest.CaptureFixture[str]) -> None:
    known = {option_name(name) for name in HIDDEN}
    run(["--help"])
    text = capsys.readouterr().out
    known |= set(re.findall(r"--[a-z][a-z-]+", text))
    commands = re.findall(r"^  ([a-z]+) ", text, re.MULTILINE)
    assert {"morph", "remake", "redo", "undo", "pose", "evaluate", "check"} <= set(commands)
    for command in commands:
        run([command, "--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    for page in PAGES:
        lines = [line for line in page.read_text().splitlines() if "segue " in line or line.startswith("- `--")]
        used = {option for line in lines if "training" not in line for option in re.findall(r"--[a-z][a-z-]+", line)}
        assert used <= known, f"{page.name}: {sorted(used - known)}"


def test_every_command_file_and_target_of_the_readme_exists(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text()
    run(["--help"])
    commands = set(re.findall(r"^  (\w+) ", capsys.readouterr().out, re.MULTILINE))
    lines = [shlex.split(line) for line in re.findall(r"^segue [a-z].*$", text, re.MULTILINE)]
    assert {line[1] for line in lines} <= commands
    made = {line[line.index("-o") + 1] for line in lines if "-o" in line}
    named = {word for line in lines for word in line[2:] if re.fullmatch(r"[\w-]+\.\w+", word)} - made
    assert len(named) >= 6
    assert {name for name in named if not (ROOT / "examples" / name).exists()} == set()
    assert set(re.findall(r"`((?:docs|examples|benchmarks)/[\w./-]*)`", text)) >= {"examples/"}
    for path in re.findall(r"`((?:docs|examples|benchmarks|src|tests)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE)) <= targets


def test_every_command_of_the_pages_exists(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    commands = set(re.findall(r"^  (\w+) ", capsys.readouterr().out, re.MULTILINE))
    for page in PAGES:
        assert (
            set(re.findall(r"(?:`|^ *|\$ )segue ([a-z]+)\b(?! import)", page.read_text(), re.MULTILINE)) <= commands
        ), page


def test_every_name_of_the_library_on_the_pages_exists() -> None:
    known = {"Interpolator": segue.Interpolator, "Morph": segue.Morph, "segue": segue, "morph": segue.Morph}
    for page in PAGES:
        for owner, name in re.findall(r"`?\b(Interpolator|Morph|morph|segue)\.([a-z_]+)\b(?=[(`])", page.read_text()):
            if owner != "segue" and name not in ("mp", "py", "gif", "webp"):
                assert hasattr(known[owner], name) or name in known[owner].__annotations__, (
                    f"{page.name}: {owner}.{name}"
                )
        for module in re.findall(r"`(segue(?:\.\w+)+)`", page.read_text()):
            assert pkgutil.resolve_name(module), page


def test_every_extra_of_the_pages_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        assert set(re.findall(r"(?:segue|\.)\[(\w+)\]['\"]", page.read_text())) <= set(extras), page


def test_the_example_manifest_can_be_read() -> None:
    assert [pair.name for pair in pairs_and_faults(ROOT / "examples/pairs.jsonl", ("num_frames",))[0]] == [
        "fox-bear",
        "cat-tiger",
        "apple-moon",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
