"""What the README and the docs say works."""

import re
import runpy
from pathlib import Path

import pytest

from segue.cli import run
from segue.outputs import check_film

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_example_is_the_readme_s_and_makes_a_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippet = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert snippet == [(ROOT / "examples/morph.py").read_text()]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples/morph.py"))
    assert (tmp_path / "morph.mp4").stat().st_size > 1000
    check_film(tmp_path / "morph.mp4")


def test_every_option_of_the_pages_exists(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"--version", "--help"}
    run(["--help"])
    commands = re.findall(r"^  (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert {"morph", "remake", "redo", "undo", "pose", "evaluate", "check"} <= set(commands)
    for command in commands:
        run([command, "--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    for page in PAGES:
        lines = [line for line in page.read_text().splitlines() if "segue " in line or line.startswith("- `--")]
        used = {option for line in lines if "training" not in line for option in re.findall(r"--[a-z][a-z-]+", line)}
        assert used <= known, f"{page.name}: {sorted(used - known)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
