"""Rows on Ray: a worker killed, then the driver, then started again; and what distribution costs.

    PYTHONPATH=tests python tests/stress/rows_on_ray.py killed cost [--rows N] [--model NAME] [--frames N] [--steps N]

Killed: two workers make the rows; one is killed in the middle, later the driver; then the same command runs again. All
films must equal those of a plain loop to the byte, and no finished batch may be made twice: a file of latents that was
there when the worker or the driver was killed is the same file in the end.

Cost: one worker on Ray and a plain loop in this process take turns with each row, so that other work on the machine
slows both; from when both have made a first row. Printed are the sums, and the median of the rows' ratios.

With ``--model pocket`` the rows are pairs of the benchmark, spread over it, else pairs of noise. All have one thread.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from segue.batch.pool import Event, WorkerPool
    from segue.batch.rows import Row
    from segue.batch.work import Order
    from segue.film.morph import Morph

COMMAND = """
import sys, typer
from segue.cli.batch import BatchCommand, batch
app = typer.Typer()
app.command()(lambda: None)
app.command(cls=BatchCommand)(batch)
sys.exit(app(["batch", *sys.argv[1:]], standalone_mode=False) or 0)
"""


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "pairs" / "manifest.jsonl"


def main() -> None:
    """Parse the command, run everything, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=("killed", "cost"))
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--model", help="pocket, or a checkpoint's folder; tiny random networks if not given")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or str(saved_tiny(folder / "model"))
        settings = {"num_frames": options.frames, "num_inference_steps": options.steps, "batch_size": 2, "pose": "off"}
        manifest = write_spread(folder, options.rows) if model == "pocket" else write(folder, options.rows)
        if "killed" in options.kinds:
            check_killed(folder, manifest, model, settings)
        if "cost" in options.kinds:
            cost(folder, manifest, model, settings)


def check_killed(folder: Path, manifest: Path, model: str, settings: dict[str, Any]) -> None:
    """Two workers; one is killed in the middle, later the driver; then the same command again."""
    rows = rows_of(manifest, folder / "single", settings)
    make = plain(model)
    for row in rows:
        make(row)
    command = [str(manifest), "-o", str(folder / "out"), "--ray", "--workers", "2", "--film", "gif", "--json"]
    command += ["--model", model, "--dtype", "float32", "--device", "cpu"]
    for key, value in settings.items():
        command += [f"--{key.replace('_', '-')}", str(value)]
    with start(command) as driver:
        wait_for(driver, made=len(rows) // 6)
        os.kill(worker_of(driver.pid), signal.SIGKILL)
        finished = batches(folder / "out")
        at_worker = len(finished)
        wait_for(driver, made=len(rows) // 3)
        driver.kill()
    finished = {**batches(folder / "out"), **finished}  # those of the first moment count as they were then
    time.sleep(3)  # Ray's own processes end with the driver
    done = run(command)[-1]
    there = batches(folder / "out")
    again = [path for path, file in finished.items() if there[path] != file]
    assert not again, f"batches made again: {again}"
    for row in rows:
        assert frames(folder / "out" / row.name) == frames(row.folder), f"{row.name} differs"
    print(
        f"killed: a worker at {at_worker} finished batches, the driver at {len(finished)}; all those are the same files"
    )
    print(f"in the end, of {len(there)}: none was made twice. The last command kept {done['kept']} rows,")
    print(f"and made {done['made']}. ", end="")
    print(f"All {len(rows)} films equal those of single runs to the byte.", flush=True)


def cost(folder: Path, manifest: Path, model: str, settings: dict[str, Any]) -> None:
    """One worker on Ray against a plain loop, in turns, from when both have made a row."""
    from segue.batch.cluster import LOCAL, ActorPool
    from segue.batch.drive import drive
    from segue.batch.notes import Notes
    from segue.batch.rows import NOTES
    from segue.lock import hold_lock
    from segue.settings.kinds import ModelSettings

    chosen = ModelSettings(model=model, dtype="float32", device="cpu")
    here, there = (warm_up(rows_of(manifest, folder / name, settings)) for name in ("loop", "ray"))
    turns = Turns(ActorPool(chosen, 1, LOCAL, len(there), folder), plain(model), {row.name: row for row in here})
    with hold_lock(folder / "ray", NOTES, "batch"), closing(turns.pool):
        done = drive(there, [], turns, notes=Notes(folder / "ray", chosen))
        turns.end()
    assert {outcome.state for outcome in done} == {"made"}, done
    for one, other in zip(here, there, strict=True):
        assert frames(one.folder) == frames(other.folder), f"{one.name} differs"
    spent = turns.spent[1:]
    loop, ray = (sum(turn[name] for turn in spent) for name in ("loop", "ray"))
    ratios = [turn["ray"] / turn["loop"] for turn in spent]
    print(
        f"cost: {len(spent)} rows, loop {loop:.1f} s, one worker on Ray {ray:.1f} s after start-up, {ray / loop:.3f};"
    )
    print(f"median ratio of the rows {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


class Turns:
    """A pool of one worker that takes turns with a plain loop: each row is made by both, every other one by it first.

    The worker's time is from when it is handed a row to when it could be handed the next.
    """

    def __init__(self, pool: "WorkerPool", make: "Callable[[Row], Morph]", rows: "dict[str, Row]") -> None:
        self.pool, self.make, self.rows = pool, make, rows
        self.spent: list[dict[str, float]] = []
        self.begun, self.row = 0.0, ""

    def hand(self, worker: int, order: "Order") -> None:
        """Give a row to the worker, behind the loop's turn with the row before or with this one."""
        self.end()
        self.row = order.row.name
        self.spent.append({})
        if len(self.spent) % 2:
            self._loop()
        self.begun = time.monotonic()
        self.pool.hand(worker, order)

    def events(self, seconds: float) -> "list[Event]":
        """What happened."""
        return self.pool.events(seconds)

    @property
    def count(self) -> int:
        """One worker."""
        return self.pool.count

    def retire(self, worker: int) -> None:
        """Do without the worker."""
        self.pool.retire(worker)

    def close(self) -> None:
        """End the worker."""
        self.pool.close()

    def end(self) -> None:
        """The worker is through with its row."""
        if self.spent:
            self.spent[-1]["ray"] = time.monotonic() - self.begun
            if "loop" not in self.spent[-1]:
                self._loop()

    def _loop(self) -> None:
        begun = time.monotonic()
        self.make(self.rows[self.row])
        self.spent[-1]["loop"] = time.monotonic() - begun


def warm_up(rows: "list[Row]") -> "list[Row]":
    """The rows, behind a copy of the first one that does not count."""
    return [replace(rows[0], name="first", folder=rows[0].folder.with_name("first"), film=None), *rows]


def plain(model: str) -> "Callable[[Row], Morph]":
    """What makes a row in a plain loop, with the model loaded."""
    import torch

    from segue.batch.work import make_row
    from segue.engine.interpolator import Interpolator

    torch.set_num_threads(1)
    return partial(make_row, Interpolator.from_pretrained(model, dtype="float32", device="cpu"))


def rows_of(manifest: Path, output: Path, settings: dict[str, Any]) -> "list[Row]":
    from segue.batch.rows import read_rows

    return read_rows(manifest, output, settings, preset="balanced", ending=".gif")


def batches(output: Path) -> dict[Path, tuple[int, int]]:
    """Every finished batch's file of latents, and which file it is."""
    found = {path: path.stat() for path in output.glob("*/latents/[!.]*")}
    return {path: (file.st_ino, file.st_mtime_ns) for path, file in found.items()}


def write_spread(folder: Path, count: int) -> Path:
    """A manifest of so many pairs of the benchmark, spread over it."""
    lines = [json.loads(line) for line in BENCHMARK.read_text().splitlines()]
    chosen = lines[:: max(1, len(lines) // count)][:count]
    for line in chosen:
        for side in "ab":
            line[side] = str(BENCHMARK.parent / line[side])
            line.pop(f"pose_{side}", None)
        line.pop("group", None)
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in chosen))
    return folder / "pairs.jsonl"


def saved_tiny(folder: Path) -> Path:
    """Tiny random networks on disk."""
    from tiny import tiny_pipe

    tiny_pipe().save_pretrained(folder)
    return folder


def write(folder: Path, count: int) -> Path:
    """A manifest of pairs of noise."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        for side in "ab":
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"p{i}-{side}.png")
        rows.append({"name": f"p{i}", "a": f"p{i}-a.png", "b": f"p{i}-b.png", "prompt": "cat", "seed": i})
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder / "pairs.jsonl"


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.PIPE, text=True)


def run(arguments: list[str]) -> list[dict[str, Any]]:
    """The JSON lines of a batch that goes through."""
    done = subprocess.run([sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return lines_of(done.stdout.splitlines())


def lines_of(texts: list[str]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in texts if text.startswith("{")]


def wait_for(driver: subprocess.Popen[str], made: int) -> None:
    """Read the driver's lines until so many rows are made and another one is in the middle."""
    assert driver.stdout is not None
    for text in driver.stdout:
        for line in lines_of([text]):
            if line["made"] >= made and line["event"] == "frame":
                return
    raise AssertionError("the batch ended too early")


def worker_of(driver: int) -> int:
    """The process of one of the driver's actors, which Ray names after their class."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_Actor") and driver in ancestors(int(path.parent.name)):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return min(found)


def ancestors(process: int) -> list[int]:
    """The processes above a process."""
    found = []
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(process)
    return found


def frames(folder: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in sorted((folder / "frames").glob("*.png"))}
    assert found
    return found


if __name__ == "__main__":
    main()
