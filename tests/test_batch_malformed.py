"""Malformed images, settings and manifests: one line each, whatever they hold."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segue.batch.manifest import COLUMNS
from segue.batch.rows import KINDS, read_rows
from segue.errors import SegueError
from segue.settings.kinds import MorphSettings, fields, parse_settings
from segue.settings.text import as_json

NAMES = sorted({name for kind in KINDS for name in fields(kind)})
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def test_malformed_images() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    script = Path(__file__).parent / "stress" / "malformed.py"
    done = subprocess.run(
        [sys.executable, str(script), "--count", "125"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"125 images of \d+ formats: \d+ read, \d+ refused", done.stdout)


@QUICK
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), VALUES, max_size=4))
def test_any_settings(values: dict[str, Any]) -> None:
    try:
        found = parse_settings(MorphSettings, values)
    except SegueError:
        return
    assert parse_settings(MorphSettings, as_json(found)) == found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for side in "ab":
        Image.new("RGB", (16, 16), "red").save(tmp_path / f"p-{side}.png")
    return tmp_path


def read(manifest: Path) -> None:
    """Read a manifest; a fault is told on a line of its own."""
    try:
        rows = read_rows(manifest, manifest.parent / "out", {}, preset="balanced", ending=".mp4")
    except SegueError as error:
        first, *faults = str(error).split("\n")
        assert str(manifest) in first
        assert all(line.startswith("  ") for line in faults)
    else:
        assert rows


ROWS = st.fixed_dictionaries(
    {"a": st.just("p-a.png") | VALUES, "b": st.just("p-b.png")},
    optional=dict.fromkeys((*COLUMNS[2:], "settings", *NAMES[:40]), VALUES),
)


@QUICK
@given(st.lists(ROWS, max_size=3))
def test_any_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    read(folder / "pairs.jsonl")


@QUICK
@given(
    st.binary(max_size=200) | st.text(alphabet='ab,."\n\r\x00{}[]:p-png1\u2028', max_size=80).map(str.encode),
    st.sampled_from([".csv", ".jsonl"]),
)
def test_any_bytes(folder: Path, data: bytes, ending: str) -> None:
    path = folder / f"pairs{ending}"
    path.write_bytes((b"a,b,name\n" if ending == ".csv" and len(data) % 2 else b"") + data)
    read(path)


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (".jsonl", "[" * 100_000),
        (".jsonl", '{"a": "p-a.png", "b": "p-b.png", "seed": ' + "9" * 5000 + "}"),
        (".jsonl", json.dumps({"a": "x" * 5000, "b": "p-b.png"})),
        (".jsonl", json.dumps({"a": "p-a.png\x00", "b": "p-b.png"})),
        (".csv", "a,b\n" + "x" * 200_000 + ",p-b.png\n"),
        (".csv", 'a,b\n"p-a.png,p-b.png\n'),
    ],
)
def test_manifests_that_once_crashed(folder: Path, ending: str, text: str) -> None:
    path = folder / f"pairs{ending}"
    path.write_text(text)
    with pytest.raises(SegueError) as caught:
        read_rows(path, folder / "out", {}, preset="balanced", ending=".mp4")
    assert str(caught.value).startswith(f"{path} has 1 fault:\n  line ")
