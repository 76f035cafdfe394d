"""The command ``segue evaluate`` as it is typed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file
from tiny import tiny_pipe
from tiny_clip import save_tiny_clip

from segue.cli.evaluate import evaluate
from segue.cli.options import GroupedCommand
from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.evaluate.charts import Dot, interval_chart, line_chart, number
from segue.models import clip

app = typer.Typer()
app.command(cls=GroupedCommand)(evaluate)


@app.callback()
def several() -> None:
    """So that the command keeps its name."""


def type_command(*arguments: object) -> int:
    """Type the command; its exit code."""
    result = app(["evaluate", *map(str, arguments)], standalone_mode=False)
    return result if isinstance(result, int) else 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two pairs, and a tiny pipe in place of pocket."""
    rng = np.random.default_rng(0)
    (tmp_path / "pairs").mkdir()
    for name in ("x-a", "x-b", "y-a", "y-b"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "pairs" / f"{name}.png")
    monkeypatch.setattr(Interpolator, "from_pretrained", classmethod(lambda cls, *_a, **_k: cls(tiny_pipe())))
    monkeypatch.chdir(tmp_path)
    return tmp_path


SMALL = ("--num-frames", 3, "--num-inference-steps", 2, "--prompt", "a thing", "--network", "pixels")


def test_other_pictures_under_the_same_names_are_not_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": name, "a": f"pairs/{name}-a.png", "b": f"pairs/{name}-b.png"} for name in ("x", "y")]
    swapped = [rows[0], {**rows[1], "a": "pairs/x-b.png"}]
    for name, of in (("one", rows), ("back", rows[::-1]), ("swapped", swapped)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, of)))
        schemes = "branching,interpolate" if name == "back" else "branching"
        assert type_command(f"{name}.jsonl", "-o", name, "--schemes", schemes, "-q", *SMALL) == 0
    capsys.readouterr()
    assert type_command("--compare", "one", "swapped") == 0
    shown = capsys.readouterr().out
    assert "swapped against one, 1 pairs" in shown
    assert "other pictures, prompts or poses: y" in shown
    # Words of the command are a setting that differs.
    assert (
        type_command("one.jsonl", "-o", "against", "--schemes", "branching", "--negative-prompt", "bad", "-q", *SMALL)
        == 0
    )
    assert type_command("--compare", "one", "against") == 0
    assert "negative_prompt: '', now 'bad'" in capsys.readouterr().out
    assert type_command("--compare", "one", "back") == 0  # the same pairs in another order, with one more scheme
    shown = capsys.readouterr().out
    assert "the same settings and model" in shown
    fid = next(line for line in shown.splitlines() if "FID, all frames" in line)
    apart = fid.split("│")[4].strip().replace("−", "-")  # of the same features in another order, to the last digit
    assert float(apart) == pytest.approx(0, abs=1e-9)


def test_from_pairs_to_comparison(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert type_command("pairs", "-o", "one", "--schemes", "branching,interpolate", *SMALL) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == "one/report.html"
    assert "films, branching" in shown.err
    assert {path.name for path in (folder / "one").iterdir()} >= {
        "report.html",
        "report.json",
        "report.csv",
        "films.csv",
    }
    report = json.loads((folder / "one" / "report.json").read_text())
    assert report["schemes"] == ["branching", "interpolate"]
    assert report["settings"]["num_inference_steps"] == 2

    assert type_command("pairs", "-o", "two", "--schemes", "branching", "-q", *SMALL, "--seed", 1) == 0
    assert capsys.readouterr().out == ""
    assert type_command("--compare", "one", "two", "-o", "both.html") == 0
    text = capsys.readouterr().out
    assert "two against one, 2 pairs" in text
    assert "seed: 0, now 1" in text
    assert "Path length (PPL) (pixels)" in text
    assert "interpolate" not in text
    assert "two against one" in (folder / "both.html").read_text()


def test_measures_of_other_pairs_are_not_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": name, "a": "pairs/x-a.png", "b": "pairs/x-b.png"} for name in ("x", "z")]
    (folder / "one.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert type_command("pairs", "-o", "two", "--schemes", "branching", "-q", *SMALL) == 0
    assert type_command("one.jsonl", "-o", "one", "--schemes", "branching", "-q", *SMALL) == 0
    assert type_command("--compare", "one", "two", "-o", "new/both.html") == 0
    shown = capsys.readouterr().out
    assert "two against one, 1 pairs" in shown
    assert "other pairs: measures of a whole set, as FID, are not compared" in shown
    of_sets = [line for line in shown.splitlines() if "FID" in line and "(pixels)" in line]
    assert of_sets
    assert not any(re.search(r"\d", line) for line in of_sets), of_sets
    assert "other pairs" in (folder / "new/both.html").read_text()
    (folder / "one.jsonl").write_text(json.dumps(rows[0]))
    assert type_command("one.jsonl", "-o", "single", "--schemes", "branching", "-q", *SMALL) == 0
    assert "– to –" not in (folder / "single/report.html").read_text()  # one pair has no interval


def test_faults_of_a_manifest_come_line_by_line_before_anything(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.jsonl").write_text('{"a": "pairs/x-a.png", "b": "none.png"}\n{\n')
    assert type_command("bad.jsonl", "-o", "out", *SMALL) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "segue: bad.jsonl has 2 faults:"
    assert sorted(line.split(":")[0].strip() for line in lines[1:]) == ["line 1", "line 2"]
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("pairs",), "--output"),
        (("pairs", "pairs", "-o", "out"), "one manifest"),
        (("pairs", "-o", "out", "--schemes", "best"), "unknown scheme 'best'"),
        (("pairs", "-o", "out", "--scheme", "interpolate"), "--schemes"),
        (("pairs", "-o", "out", "--loop"), "--loop"),
        (("pairs", "-o", "out", "--network", "vgg"), "unknown feature network"),
        (("pairs", "-o", "out", "--noise", "0.6", "0.3"), "noise"),
        (("nowhere.jsonl", "-o", "out"), "nowhere.jsonl cannot be read"),
        (("pairs", "-o", "pairs"), "no evaluation"),
        (("--compare", "pairs"), "two evaluations"),
        (("--compare", "pairs", "pairs"), "not an evaluation"),
        (("--compare", "pairs", "pairs", "-o", "x.txt"), ".html"),
        (("--convert", "pairs/x-a.png"), "--output"),
        (("--convert", "pairs/x-a.png", "-o", "w.safetensors"), "x-a.png"),
        (("--convert", "--compare", "pairs"), "one of them"),
    ],
)
def test_what_a_user_can_get_wrong(folder: Path, arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(SegueError, match=re.escape(text)) as caught:
        type_command(*arguments)
    assert "\n" not in str(caught.value)
    assert not (folder / "out").exists()
    assert not (folder / "w.safetensors").exists()


def test_convert(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"x": torch.ones(2)}, folder / "a.pth")
    torch.save({"y": torch.zeros(3)}, folder / "b.pth")
    assert type_command("--convert", "a.pth", "b.pth", "-o", "w.safetensors") == 0
    assert load_file(folder / "w.safetensors").keys() == {"x", "y"}
    assert capsys.readouterr().out.strip() == "w.safetensors: 2 tensors"


def test_the_python_of_the_documentation_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[1] / "docs" / "evaluate.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (folder / "benchmarks" / "pairs").mkdir(parents=True)
    (folder / "benchmarks" / "pairs" / "manifest.jsonl").write_text(
        '{"a": "../../pairs/x-a.png", "b": "../../pairs/x-b.png", "prompt": "a thing"}\n'
    )
    monkeypatch.setattr(clip, "POCKET_CLIP", save_tiny_clip(folder / "clip"))
    exec(compile(snippet, "docs/evaluate.md", "exec"), {})
    assert "Cell(scheme='branching', measure='ppl', network='pocket'" in capsys.readouterr().out
    assert (folder / "report" / "report.html").exists()


# The charts.


def test_numbers() -> None:
    shown = [number(v) for v in (0, 1, -1.5, 0.01234, 123.4, 99999.4, 0.0001234, 2.5e7, None, float("nan"))]
    assert shown == ["0", "1.00", "−1.50", "0.0123", "123", "99999", "1.2e−4", "2.5e7", "–", "–"]


def places(svg: str, name: str) -> list[float]:
    return [float(x) for x in re.findall(rf'<circle {name}="([\d.]+)"' if name == "cx" else r'cy="([\d.]+)"', svg)]


def test_interval_chart() -> None:
    svg = interval_chart([Dot(1, 0.5, 1.5, "s0"), Dot(3, 2, 4, "s1"), Dot(2, 2, 2, "s2")], width=200)
    one, three, two = places(svg, "cx")
    assert 0 < one < two < three < 200
    assert two - one == pytest.approx(three - two, abs=0.2)
    assert 'class="zero"' not in svg
    assert 'class="zero"' in interval_chart([Dot(1, 1, 1, "s0")], zero=True)


def test_line_chart() -> None:
    svg = line_chart({"s0": [(0, 0), (0.5, 2), (1, 1)]}, dots=True, title="a < b")
    across, down = places(svg, "cx"), places(svg, "cy")
    assert across == sorted(across)
    assert down[1] < down[2] < down[0]
    assert down[0] - down[2] == pytest.approx(down[2] - down[1], abs=0.2)
    assert "a &lt; b" in svg
    assert line_chart({}).startswith("<svg")
    assert "polyline" in line_chart({"s0": [(0, 0), (1, 0)]})
