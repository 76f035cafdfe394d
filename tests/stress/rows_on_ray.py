"""Rows on Ray: a worker killed, then the driver, then started again; and what distribution costs.

    PYTHONPATH=tests python tests/stress/rows_on_ray.py [--rows N] [--model FOLDER] [--frames N] [--steps N]

All films must equal those of a plain loop to the byte, and no finished batch may be made twice: a file of latents
that was there when the driver was killed is the same file in the end. All runs have one thread for each worker.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COMMAND = """
import sys, typer
from segue.batch.command import BatchCommand, batch
app = typer.Typer()
app.command()(lambda: None)
app.command(cls=BatchCommand)(batch)
sys.exit(app(["batch", *sys.argv[1:]], standalone_mode=False) or 0)
"""


def main() -> None:
    """Parse the command, run everything, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--model", help="a checkpoint's folder; tiny random networks if not given")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--cost-only", action="store_true", help="kill nothing")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or str(saved_tiny(folder / "model"))
        settings = {"num_frames": options.frames, "num_inference_steps": options.steps, "batch_size": 2}
        manifest = written(folder, options.rows)
        arguments = [
            str(manifest),
            "--model",
            model,
            "--dtype",
            "float32",
            "--device",
            "cpu",
            "--film",
            "gif",
            "--json",
        ]
        for key, value in settings.items():
            arguments += [f"--{key.replace('_', '-')}", str(value)]

        if not options.cost_only:
            killed(folder, manifest, model, settings, arguments, options.rows)

        # One worker from when it is ready, against the loop before and after it, as other work may slow both.
        loops = [plain_loop(folder / "before", manifest, model, settings)]
        lines = run([*arguments, "-o", str(folder / "cost"), "--ray", "--workers", "1"])
        begun = next(line["seconds"] for line in lines if line["event"] == "start")
        spent = next(line["seconds"] for line in reversed(lines) if line["event"] == "made") - begun
        loops.append(plain_loop(folder / "after", manifest, model, settings))
        share = 100 * (spent / (sum(loops) / 2) - 1)
        print(f"a plain loop: {options.rows} rows in {loops[0]:.1f} s and in {loops[1]:.1f} s")
        print(f"one worker on Ray: {spent:.1f} s after start-up, {share:+.1f} %")


def killed(
    folder: Path, manifest: Path, model: str, settings: dict[str, Any], arguments: list[str], count: int
) -> None:
    """Two workers; one is killed in the middle, later the driver; then the same command again."""
    plain_loop(folder / "single", manifest, model, settings)
    interrupted = [*arguments, "-o", str(folder / "out"), "--ray", "--workers", "2"]
    with started(interrupted) as driver:
        wait_for(driver, made=count // 6)
        victim = worker_of(driver.pid)
        os.kill(victim, signal.SIGKILL)
        wait_for(driver, made=count // 3)
        driver.kill()
    finished = {path: path.stat().st_ino for path in (folder / "out").glob("*/latents/[!.]*")}
    time.sleep(3)  # Ray's own processes end with the driver
    lines = run(interrupted)
    again = [path for path, inode in finished.items() if path.stat().st_ino != inode]
    assert not again, f"batches made again: {again}"
    for i in range(count):
        assert frames(folder / "out" / f"p{i}") == frames(folder / "single" / f"p{i}"), f"p{i} differs"
    print(f"worker and driver killed: {len(finished)} finished batches kept, {lines[-1]['kept']} rows kept,")
    print(f"{lines[-1]['made']} made, all {count} films equal to the byte", flush=True)


def saved_tiny(folder: Path) -> Path:
    """Tiny random networks on disk."""
    from tiny import tiny_pipe

    tiny_pipe().save_pretrained(folder)
    return folder


def written(folder: Path, count: int) -> Path:
    """A manifest of pairs of noise."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        for side in "ab":
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"p{i}-{side}.png")
        rows.append({"name": f"p{i}", "a": f"p{i}-a.png", "b": f"p{i}-b.png", "prompt": "cat", "seed": i})
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder / "pairs.jsonl"


def plain_loop(output: Path, manifest: Path, model: str, settings: dict[str, Any]) -> float:
    """The same films in a plain loop; the seconds after the model is loaded."""
    import torch

    from segue.batch.rows import read_rows
    from segue.batch.work import make_row
    from segue.interpolate import Interpolator

    torch.set_num_threads(1)
    segue = Interpolator.from_pretrained(model, dtype="float32", device="cpu")
    rows = read_rows(manifest, output, settings, preset="balanced", ending=".gif")
    begun = time.monotonic()
    for row in rows:
        make_row(segue, row)
    return time.monotonic() - begun


def started(arguments: list[str]) -> subprocess.Popen[str]:
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
