"""Many films: each equals the film of a single run; what fails is told, tried again, or left to the next command."""

import csv
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from test_stills import write
from tiny import tiny_pipe

from segue.batch import drive
from segue.batch.archive import make_apart, pack, unpack
from segue.batch.cluster import share_of
from segue.batch.drive import Status
from segue.batch.notes import Outcome
from segue.batch.pool import Event, ProcessPool
from segue.batch.rows import NOTES, Row, read_rows
from segue.batch.work import Loaded, Order, make_row, result_of
from segue.cli import batch as command
from segue.cli.batch import BatchCommand, batch
from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.film.morph import Morph
from segue.lock import hold_lock
from segue.run.folder import RunFolder
from segue.settings.kinds import FilmSettings, ModelSettings
from segue.settings.presets import POCKET

ALIGNED_FINELY = True  # as in workers, which are processes of their own
SETTINGS: dict[str, Any] = {
    **POCKET,  # of commands that name no model
    "num_frames": 5,
    "num_inference_steps": 2,
    "prompt": ("cat",),
    "batch_size": 2,
}
OPTIONS = [
    "--num-frames",
    "5",
    "--num-inference-steps",
    "2",
    "--prompt",
    "cat",
    "--set",
    "batch_size=2",
    "--film",
    "gif",
]

app = typer.Typer()
app.command()(lambda: None)
app.command(cls=BatchCommand)(batch)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return Loaded(Interpolator(tiny_pipe()))


def write_images(folder: Path, count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        for side in "ab":
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"p{i}-{side}.png")
        rows.append({"name": f"p{i}", "a": f"p{i}-a.png", "b": f"p{i}-b.png"})
    return rows


def write_manifest(folder: Path, count: int, **own: dict[str, Any]) -> Path:
    """Pairs p0, p1, ...; what is given by name goes into that row."""
    rows = [row | own.get(row["name"], {}) for row in write_images(folder, count)]
    path = folder / "pairs.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def frames(run: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in sorted((run / "frames").glob("*.png"))}
    assert found
    return found


class Here:
    """A pool of one worker in this process; ``before`` sees each order, and may answer in the worker's place."""

    count = 1

    def __init__(self, loaded: Loaded, before: Callable[[Order], Event | None] = lambda _order: None) -> None:
        self.loaded, self.before = loaded, before
        self.found = [Event(0, "ready")]
        self.orders: list[Order] = []
        self.is_closed = False

    def hand(self, worker: int, order: Order) -> None:
        self.orders.append(order)
        if answer := self.before(order):
            self.found.append(answer)
            return
        result = self.loaded.make(
            order,
            frame=lambda: self.found.append(Event(worker, "frame")),
            say=lambda text: self.found.append(Event(worker, "word", text)),
        )
        self.found.append(Event(worker, "result", result=result))

    def events(self, seconds: float) -> list[Event]:
        found, self.found = self.found, []
        if any(event.kind == "lost" for event in found):
            self.found.append(Event(0, "ready"))
        return found

    def retire(self, worker: int) -> None:
        self.count -= 1

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch, loaded: Loaded) -> Iterator[list[Here]]:
    """The pools that the command makes, each of one worker in this process."""
    made: list[Here] = []

    def pool(*_arguments: Any) -> Here:
        made.append(Here(loaded))
        return made[-1]

    monkeypatch.setattr(command, "_start_pool", pool)
    yield made
    assert all(pool.is_closed for pool in made)


def run(arguments: Sequence[str]) -> int:
    """The exit code of the command, as the command line gives it."""
    try:
        result = app(["batch", *arguments], standalone_mode=False)
    except SegueError:
        return 2
    return result if isinstance(result, int) else 0


def table(output: Path) -> dict[str, dict[str, str]]:
    with (output / "batch.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


# Rows.


def test_rows_take_their_own_settings_before_the_commands_and_the_presets(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, 2, p1={"num_frames": 9, "fps": 5, "noise": [0.2, 0.6], "prompt": "dog", "seed": 3})
    first, second = read_rows(path, tmp_path / "out", {"num_frames": 7, "fps": 24.0}, preset="draft", ending=".gif")
    assert (first.settings.num_frames, second.settings.num_frames) == (7, 9)
    assert (first.settings.num_inference_steps, first.settings.noise) == (
        16,
        (0.2, 0.2),
    )  # of the preset, and pocket's
    assert (second.settings.noise, second.settings.prompt, second.settings.seed) == ((0.2, 0.6), ("dog", "dog"), 3)
    assert (first.film_values["fps"], second.film_values["fps"]) == (24.0, 5)
    assert (second.folder, second.film) == (tmp_path / "out/p1", tmp_path / "out/p1.gif")
    assert second.images == (tmp_path / "p1-a.png", tmp_path / "p1-b.png")


def test_rows_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, 2)
    (tmp_path / "pairs.csv").write_text(
        "a,b,num_frames,noise,loop,prompt_at,bias,control_image\n"
        'p0-a.png,p0-b.png,9,0.5 0.4 0.3,true,"{""0.5"": ""a fox""}",0.1,\n'
        'p1-a.png,p1-b.png,,,,,,"[""p0-a.png"", ""p0-b.png""]"\n'
    )
    monkeypatch.chdir(tmp_path)
    first, second = read_rows(Path("pairs.csv"), Path("out"), {}, preset="balanced", ending=".mp4")
    settings = first.settings
    assert (settings.num_frames, settings.noise, settings.loop) == (9, (0.5, 0.4, 0.3), True)
    assert (settings.prompt_at, settings.bias) == ({0.5: "a fox"}, 0.1)
    assert second.settings.num_frames == 17
    assert second.settings.control_image == (str(tmp_path / "p0-a.png"), str(tmp_path / "p0-b.png"))
    assert second.inputs == tuple(tmp_path / name for name in ("p1-a.png", "p1-b.png", "p0-a.png", "p0-b.png"))


def test_rows_of_frames_of_a_video(tmp_path: Path, loaded: Loaded) -> None:
    """Also for a worker elsewhere, who is sent the video."""
    write(tmp_path / "clip.mp4", size=(32, 32))
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("name;a;b\nx;clip.mp4@first;clip.mp4@last\ny;clip.mp4@last;clip.mp4@first\n")
    values = {**SETTINGS, "num_frames": 3}
    first, second = read_rows(manifest, tmp_path / "out", values, preset="balanced", ending=".gif")
    assert first.images == (tmp_path / "clip.mp4@first", tmp_path / "clip.mp4@last")
    assert first.cache_key(ModelSettings()) != second.cache_key(ModelSettings())
    (tmp_path / "out").mkdir()
    order = pack(Order(first))
    (tmp_path / "clip.mp4").unlink()
    result = make_apart(loaded, order, lambda: None, lambda _text: None)
    assert not result.reason
    unpack(first, result.archive or b"")
    keyframes = [np.asarray(Image.open(path), int) for path in sorted((first.folder / "frames").glob("*.png"))]
    height, width = keyframes[0].shape[:2]
    assert abs(keyframes[0][height // 2, width // 2] - (200, 80, 60)).max() <= 3
    assert abs(keyframes[-1][height // 2, width // 2] - (60, 80, 200)).max() <= 3


def test_every_fault_of_a_manifest_is_told_before_anything_is_made(
    tmp_path: Path, pools: list[Here], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_manifest(tmp_path, 3, p0={"num_frames": 1}, p2={"noise": [0.6, 0.3]})
    assert run([str(path), "-o", str(tmp_path / "out"), *OPTIONS]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"segue: {path} has 2 faults:"
    assert re.search(r"line 1 \(p0\): num_frames", lines[1])
    assert re.search(r"line 3 \(p2\): noise is a range", lines[2])
    path = write_manifest(tmp_path, 1, p0={"number": 1})
    assert run([str(path), "-o", str(tmp_path / "out"), *OPTIONS]) == 2
    (tmp_path / "pose.json").write_text("{}")
    path = write_manifest(
        tmp_path,
        5,
        p0={"a": "nofile.png"},
        p1={"prompt_at": {"1.5": "x"}},
        p2={"pose": "pose.json,pose.json"},
        p3={"control_image": ["p0-a.png"]},
        p4={"spacing": "perceptual:foo"},
    )
    capsys.readouterr()
    assert run([str(path), "-o", str(tmp_path / "out"), *OPTIONS]) == 2
    lines = capsys.readouterr().err.splitlines()
    expected = (
        r"5 faults",
        r"line 1: there is no file .*nofile.png",
        r"line 2 .*prompt_at 1.5 lies outside",
        r"line 3 .*pose.json is not an OpenPose file",
        r"line 4 .*control_image: 1 files for 2 keyframes",
        r"line 5 .*unknown feature network 'foo'",
    )
    assert len(lines) == len(expected)
    assert all(re.search(*pair) for pair in zip(expected, lines, strict=True)), lines
    assert not (tmp_path / "out").exists()
    assert not pools


def test_a_film_of_another_ending_is_written(
    tmp_path: Path, pools: list[Here], capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_manifest(tmp_path, 1), tmp_path / "out"
    for ending, seed in (("mp4", "1"), ("gif", "1"), ("gif", "2"), ("mp4", "2")):
        options = [*OPTIONS, "--film", ending, "--seed", seed, "--overwrite"]
        assert run([str(path), "-o", str(out), *options]) == 0
        newest = max(out.glob("p0.*"), key=lambda film: film.stat().st_mtime_ns)
        assert newest.suffix == f".{ending}"


def test_quiet_still_tells_the_rows_that_failed(
    tmp_path: Path, pools: list[Here], capsys: pytest.CaptureFixture[str]
) -> None:
    levels = [0.6, 0.5, 0.4, 0.3]
    own = {"ranker": "/no/such/clip", "rank_for": "x", "candidates": 2, "noise": levels}
    path = write_manifest(tmp_path, 1, p0=own)  # with levels that are not used, of which nothing is said
    assert run([str(path), "-o", str(tmp_path / "out"), *OPTIONS, "--quiet"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("segue: p0 failed: /no/such/clip")


# The command.


def test_each_film_equals_that_of_a_single_run_and_is_made_once(
    tmp_path: Path, pools: list[Here], loaded: Loaded, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_manifest(tmp_path, 3, p1={"seed": 5, "num_frames": 3})
    arguments = [str(path), "-o", str(tmp_path / "out"), *OPTIONS]
    assert run(arguments) == 0
    for i, own in enumerate([{}, {"seed": 5, "num_frames": 3}, {}]):
        images = (tmp_path / f"p{i}-a.png", tmp_path / f"p{i}-b.png")
        loaded.interpolator(*images, output=tmp_path / f"single{i}", **{**SETTINGS, **own})
        assert frames(tmp_path / "out" / f"p{i}") == frames(tmp_path / f"single{i}")
        with Image.open(tmp_path / "out" / f"p{i}.gif") as film:
            assert film.format == "GIF"
    found = table(tmp_path / "out")
    assert [row["state"] for row in found.values()] == ["made"] * 3
    assert [row["frames"] for row in found.values()] == ["5", "3", "5"]
    assert "3 made" in capsys.readouterr().out

    # The same again makes nothing; a row more makes that row; another film setting makes no frame.
    assert run(arguments) == 0
    assert len(pools) == 1
    write_manifest(tmp_path, 4, p1={"seed": 5, "num_frames": 3})
    assert run(arguments) == 0
    assert [order.row.name for order in pools[1].orders] == ["p3"]
    assert [row["state"] for row in table(tmp_path / "out").values()] == ["kept"] * 3 + ["made"]
    made = {path: path.stat().st_ino for path in (tmp_path / "out").glob("*/latents/*")}
    assert run([*arguments, "--fps", "5"]) == 0
    assert len(pools[2].orders) == 4
    assert {path: path.stat().st_ino for path in (tmp_path / "out").glob("*/latents/*")} == made


def test_a_row_that_fails_is_told_and_made_by_the_next_command(
    tmp_path: Path, pools: list[Here], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_manifest(tmp_path, 3)
    whole = (tmp_path / "p1-b.png").read_bytes()
    Image.open(tmp_path / "p1-b.png").save(tmp_path / "whole.jpg")  # its damage shows only when it is read to the end
    (tmp_path / "p1-b.png").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-600])
    arguments = [str(path), "-o", str(tmp_path / "out"), "--json", *OPTIONS]
    assert run(arguments) == 1
    found = table(tmp_path / "out")
    assert [row["state"] for row in found.values()] == ["made", "failed", "made"]
    assert re.match(r".*p1-b\.png is damaged", found["p1"]["reason"])
    assert found["p1"]["attempts"] == "1"  # the cause does not pass by itself
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines[:2]] == ["begin", "start"]
    last = lines[-2]
    assert (last["rows"], last["made"], last["failed"], last["running"], last["frames"]) == (3, 2, 1, [], 6)
    assert last["frames_per_minute"] > 0
    assert (last["left"], lines[-1]["event"]) == (0, "done")
    assert lines[-1] | {"made": 2, "kept": 0, "failed": 1} == lines[-1]

    (tmp_path / "p1-b.png").write_bytes(whole)
    assert run(arguments) == 0
    assert [order.row.name for order in pools[1].orders] == ["p1"]
    assert [row["state"] for row in table(tmp_path / "out").values()] == ["kept", "made", "kept"]

    # Other settings fail row by row; begun anew only when asked.
    assert run([*arguments, "--seed", "4"]) == 1
    assert all("seed: 0, now 4" in row["reason"] for row in table(tmp_path / "out").values())
    assert run([*arguments, "--seed", "4", "--overwrite"]) == 0


def test_files_that_are_not_the_batchs_are_not_written_over(
    tmp_path: Path, pools: list[Here], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_manifest(tmp_path, 2)
    out = tmp_path / "out"
    (tmp_path / "batch.csv").write_text("name,a,b\np0,p0-a.png,p0-b.png\n")
    for manifest, output, name in (
        ("batch.csv", tmp_path, "batch.csv"),
        (path, out, "batch.csv"),
        (path, out, "p1.gif"),
    ):
        out.mkdir(exist_ok=True)
        for file in out.iterdir():
            file.unlink()
        (output / name).write_text("precious") if output == out else None
        before = (output / name).read_bytes()
        with pytest.raises(SegueError, match=f"{name} (would replace|exists)"):
            app(["batch", str(tmp_path / manifest), "-o", str(output), *OPTIONS], standalone_mode=False)
        assert (output / name).read_bytes() == before
    assert run([str(path), "-o", str(out), "--overwrite", *OPTIONS]) == 0


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_picture_that_changes_while_its_row_is_made_fails_that_row_only(
    tmp_path: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch, is_gone: bool
) -> None:
    path, picture = write_manifest(tmp_path, 3), tmp_path / "p0-a.png"

    def change(order: Order) -> None:
        if order.row.name == "p0":
            picture.unlink() if is_gone else picture.write_bytes((tmp_path / "p2-a.png").read_bytes())
        if order.row.name == "p1":
            (tmp_path / "p2-b.png").unlink()  # and one that is gone before its row begins

    monkeypatch.setattr(command, "_start_pool", lambda *_arguments: Here(loaded, change))
    assert run([str(path), "-o", str(tmp_path / "out"), *OPTIONS]) == 1
    found = table(tmp_path / "out")
    assert [row["state"] for row in found.values()] == ["failed", "made", "failed"]
    assert "p2-b.png: No such file" in found["p2"]["reason"]
    assert ("p0-a.png" if is_gone else "changed while it was made") in found["p0"]["reason"]


def test_what_is_no_longer_whole_is_made_again(
    tmp_path: Path, pools: list[Here], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(write_manifest(tmp_path, 3)), "-o", str(tmp_path / "out"), "--quiet", "--json", *OPTIONS]
    assert run(arguments) == 0
    film, frame = tmp_path / "out" / "p0.gif", tmp_path / "out" / "p1" / "frames" / "000.5000000.png"
    whole = film.read_bytes(), frame.read_bytes()
    film.write_bytes(whole[0][:10])
    frame.unlink()
    shutil.rmtree(tmp_path / "out" / "p2")
    capsys.readouterr()
    assert run(arguments) == 0
    assert [order.row.name for order in pools[1].orders] == ["p0", "p1", "p2"]
    assert (film.read_bytes(), frame.read_bytes()) == whole
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last | {"event": "done", "made": 3, "kept": 0, "failed": 0} == last


def test_an_interrupted_batch_leaves_a_table_of_what_was_made(
    tmp_path: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(order: Order) -> None:
        if order.row.name == "p1":
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "_start_pool", lambda *_arguments: Here(loaded, interrupt))
    assert run([str(write_manifest(tmp_path, 3)), "-o", str(tmp_path / "out"), *OPTIONS]) == 130
    assert {name: row["state"] for name, row in table(tmp_path / "out").items()} == {"p0": "made"}


def test_one_batch_at_a_time(tmp_path: Path, pools: list[Here]) -> None:
    path = write_manifest(tmp_path, 1)
    with hold_lock(tmp_path / "out", NOTES, "batch"):
        with pytest.raises(SegueError, match="in use by another batch"):
            app(["batch", str(path), "-o", str(tmp_path / "out"), *OPTIONS], standalone_mode=False)
        assert not pools


def test_ray_stands_with_or_without_an_address() -> None:
    def address(*arguments: str) -> object:
        seen: list[Any] = []
        probe = typer.Typer()
        probe.command()(lambda: None)

        def main(pairs: str, ray: str = "", output: str = "") -> None:
            seen.append((pairs, ray, output))

        probe.command(cls=BatchCommand)(main)
        probe(["main", *arguments], standalone_mode=False)
        return seen[0]

    assert address("--ray", "pairs.csv") == ("pairs.csv", "local", "")
    assert address("pairs.csv", "--ray") == ("pairs.csv", "local", "")
    assert address("pairs.csv", "--ray", "--output", "x") == ("pairs.csv", "local", "x")
    for given in ("auto", "10.0.0.1:6379", "ray://head:10001"):
        assert address("--ray", given, "pairs.csv") == ("pairs.csv", given, "")
    assert address("pairs.csv") == ("pairs.csv", "", "")


# Attempts.


def rows_of(folder: Path, count: int) -> list[Row]:
    return read_rows(write_manifest(folder, count), folder / "out", SETTINGS, preset="balanced", ending=".gif")


def answers(*given: Event | None) -> Callable[[Order], Event | None]:
    """Answers to the first orders in the worker's place; None lets it work."""
    left = list(given)
    return lambda _order: left.pop(0) if left else None


LOST = Event(0, "lost", "killed by signal 9")


def test_a_row_whose_worker_is_lost_is_tried_again_the_same_way(tmp_path: Path, loaded: Loaded) -> None:
    said: list[Status] = []
    pool = Here(loaded, answers(LOST))
    outcomes = drive.drive(rows_of(tmp_path, 2), [], pool, callback=said.append)
    assert [(o.name, o.state, o.attempts) for o in outcomes] == [("p0", "made", 2), ("p1", "made", 1)]
    assert [order.batch_size for order in pool.orders] == [0, 0, 0]  # the same batches: the same bytes
    assert [(s.row, s.text) for s in said if s.event == "again"] == [("p0", "its worker was lost (killed by signal 9)")]
    outcomes = drive.drive(rows_of(tmp_path, 2), [], Here(loaded, answers(LOST, LOST, LOST)))
    assert [(o.name, o.state, o.attempts) for o in outcomes] == [("p0", "failed", 3), ("p1", "made", 1)]
    assert outcomes[0].reason == "its worker was lost (killed by signal 9)"


def test_a_row_that_runs_out_of_memory_is_tried_with_half_the_batch(tmp_path: Path, loaded: Loaded) -> None:
    row = rows_of(tmp_path, 1)[0]
    make_row(loaded.interpolator, row)  # a run whose batches are of 2
    result = result_of(MemoryError("no room"), row, 1.0)
    assert (result.cause, result.batch_size) == ("memory", 2)
    pool = Here(loaded, answers(Event(0, "result", result=replace(result, batch_size=8))))
    outcomes = drive.drive([row], [], pool)
    assert [order.batch_size for order in pool.orders] == [0, 4]
    assert (outcomes[0].state, outcomes[0].attempts) == ("made", 2)


def test_a_row_whose_folder_is_in_use_waits(tmp_path: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "PAUSE", 0.05)
    monkeypatch.setattr(drive, "TICK", 0.01)
    row = rows_of(tmp_path, 1)[0]
    lock = RunFolder(row.folder)
    tries = 0

    def before(_order: Order) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            lock.close()

    outcomes = drive.drive([row], [], Here(loaded, before))
    assert (outcomes[0].state, outcomes[0].attempts) == ("made", 3)


def test_an_error_of_the_program_fails_its_row_only(tmp_path: Path, loaded: Loaded) -> None:
    result = result_of(ZeroDivisionError("division\nby zero"), rows_of(tmp_path, 1)[0], 1.0)
    assert (result.reason, result.cause) == ("ZeroDivisionError: division by zero", "")
    assert "ZeroDivisionError" in result.trace
    pool = Here(loaded, answers(Event(0, "result", result=result)))
    outcomes = drive.drive(rows_of(tmp_path, 2), [Outcome("k", "kept")], pool)
    assert [outcome.state for outcome in outcomes] == ["kept", "failed", "made"]


def test_a_model_that_no_worker_can_load_ends_the_batch(tmp_path: Path, loaded: Loaded) -> None:
    pool = Here(loaded)
    pool.found = [Event(0, "unfit", "no such model")]
    with pytest.raises(SegueError, match="no such model"):
        drive.drive(rows_of(tmp_path, 1), [], pool)
    pool.found = [LOST, LOST, LOST]
    with pytest.raises(SegueError, match=r"lost while they load the model \(killed by signal 9\)"):
        drive.drive(rows_of(tmp_path, 1), [], pool)


def test_rows_whose_names_meet_are_told_before_anything(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    for name in ("a", "b"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / f"{name}.png")
    path.write_text("name,a,b\nx,a.png,b.png\nx.gif,a.png,b.png\nbatch.csv,a.png,b.png\n")
    with pytest.raises(SegueError) as caught:
        read_rows(path, tmp_path / "out", SETTINGS, preset="draft", ending=".gif")
    assert "x.gif would also be the film of x; rename it" in str(caught.value)
    assert "batch.csv would also be the batch's table" in str(caught.value)


def test_refined_frames_count(tmp_path: Path) -> None:
    row = read_rows(write_manifest(tmp_path, 1), tmp_path / "out", {"refine": 4}, preset="balanced", ending=".gif")[0]
    assert drive._State([row], [], False, Here(None), None).expected == {"p0": 63}  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["unfit", "lost"])
def test_a_worker_that_cannot_load_the_model_does_not_end_what_others_make(
    tmp_path: Path, loaded: Loaded, kind: Any
) -> None:
    class Two(Here):
        count = 2

        def events(self, seconds: float) -> list[Event]:
            found, self.found = self.found, []
            return found

    pool = Two(loaded)
    pool.found += [Event(1, kind, "no room")] * (1 if kind == "unfit" else drive.ATTEMPTS)
    assert [o.state for o in drive.drive(rows_of(tmp_path, 2), [], pool)] == ["made", "made"]
    assert pool.count == 1
    # A worker that was ready and is lost while it waits is only replaced.
    (tmp_path / "idle").mkdir()
    pool = Two(loaded)
    pool.found += [Event(1, "ready"), Event(1, "lost", "killed")] * drive.ATTEMPTS
    assert [o.state for o in drive.drive(rows_of(tmp_path / "idle", 2), [], pool)] == ["made", "made"]
    assert pool.count == 2


# Workers on a cluster.


@pytest.mark.parametrize(
    ("machines", "count", "share"),
    [
        ([8, 8], 1, 8.0),  # no machine has all sixteen
        ([8, 8], 2, 8.0),
        ([16, 4], 2, 8.0),  # both on the larger one
        ([16, 10], 2, 10.0),
        ([2], 4, 0.5),
        ([8, 8], 3, 4.0),
        ([0, 6], 4, 1.0),
        ([1, 1, 1], 3, 1.0),
        ([1], 3, 0.333),
    ],
)
def test_a_worker_s_share_lies_within_one_machine(machines: list[float], count: int, share: float) -> None:
    assert share_of(machines, count) == share
    assert sum(int(there / share) for there in machines) >= count


# Workers that do not see the files.


def test_a_row_made_apart_comes_back_as_if_it_were_made_here(tmp_path: Path, loaded: Loaded) -> None:
    here, apart = rows_of(tmp_path, 2)
    apart = replace(apart, images=here.images)
    os.utime(apart.images[0], (0, 0))  # as reproducible archives date their files, before any zip file's dates
    loaded.make(Order(here), lambda: None, lambda _text: None)
    said: list[str] = []
    order = pack(Order(apart))
    result = make_apart(loaded, order, lambda: said.append("frame"), said.append)
    assert (result.reason, said) == ("", ["frame"] * 3)
    assert not apart.folder.exists()
    assert result.archive is not None
    unpack(apart, result.archive)
    assert frames(apart.folder) == frames(here.folder)
    assert apart.film is not None
    assert here.film is not None
    assert apart.film.read_bytes() == here.film.read_bytes()
    assert list(json.loads((apart.folder / "films.json").read_text())) == [os.path.relpath(apart.film, apart.folder)]

    # What there is of a run goes along and is not made again.
    again = make_apart(loaded, pack(Order(apart)), lambda: None, said.append)
    assert again.archive is not None
    before = {path: path.read_bytes() for path in apart.folder.glob("latents/*")}
    Morph(apart.folder).remember(tmp_path / "other.gif", FilmSettings())  # a film of the run that was written by hand
    unpack(apart, again.archive)
    assert len(json.loads((apart.folder / "films.json").read_text())) == 2
    assert {path: path.read_bytes() for path in apart.folder.glob("latents/*")} == before


# Real processes.


def test_workers_are_processes_of_their_own_and_may_die(tmp_path: Path, loaded: Loaded) -> None:
    loaded.interpolator.backbone.pipe.save_pretrained(tmp_path / "model")  # type: ignore[attr-defined]
    model = ModelSettings(model=str(tmp_path / "model"), dtype="float32", device="cpu")
    rows = rows_of(tmp_path, 3)
    pool = ProcessPool([model], threads=1)
    killed: list[int] = []

    def kill_once(status: Status) -> None:
        if status.event == "frame" and not killed:
            killed.extend(pool.pids)
            os.kill(killed[0], signal.SIGKILL)

    try:
        outcomes = drive.drive(rows, [], pool, callback=kill_once)
    finally:
        pool.close()
    assert killed
    assert sorted((o.name, o.state) for o in outcomes) == [(row.name, "made") for row in rows]
    assert sum(o.attempts for o in outcomes) == 4
    interpolator = Interpolator.from_pretrained(
        tmp_path / "model", dtype="float32", device="cpu"
    )  # as the workers load it
    for row in rows:
        single = tmp_path / f"single-{row.name}"
        interpolator(*row.images, output=single, **SETTINGS)
        assert frames(row.folder) == frames(single)
