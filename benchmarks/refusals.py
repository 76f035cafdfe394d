"""CPU seconds until the command line refuses what is wrong, or answers what needs no model.

    python benchmarks/refusals.py [--source OTHER/src] [--times 3]

Each command runs in a process of its own, some times, the first one unmeasured, so that Python has compiled what it
imports; the least of its user and system time counts.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

MORPH = ["morph", "a.png", "b.png", "-o"]
COMMANDS: dict[str, list[str]] = {
    "version": ["--version"],
    "help": ["--help"],
    "help of morph": ["morph", "--help"],
    "models": ["models"],
    "missing picture": ["morph", "a.png", "missing.png", "-o", "film.mp4"],
    "unreadable picture": ["morph", "a.png", "text.png", "-o", "film.mp4"],
    "one picture": ["morph", "a.png", "-o", "film.mp4"],
    "unknown ending": [*MORPH, "film.avi"],
    "output is an input": [*MORPH, "a.png"],
    "somebody's file": [*MORPH, "there.mp4"],
    "2 frames": [*MORPH, "film.mp4", "--num-frames", "2"],
    "unknown option": [*MORPH, "film.mp4", "--steps", "9"],
    "unknown value": [*MORPH, "film.mp4", "--scheme", "magic"],
    "bad setting": [*MORPH, "film.mp4", "--noise", "0.6", "0.3"],
    "prompts": [*MORPH, "film.mp4", *["--prompt", "a", "--prompt", "b", "--prompt", "c"]],
    "background": [*MORPH, "film.mp4", "--background", "nocolour"],
    "missing pose": [*MORPH, "film.mp4", "--pose", "a.json,b.json"],
    "missing control image": [*MORPH, "film.mp4", "--control-image", "c.png", "--control-image", "d.png"],
    "missing points": [*MORPH, "film.mp4", "--set", "points=points.json"],
    "unknown model": [*MORPH, "film.mp4", "--model", "nowhere"],
    "missing LoRA": [*MORPH, "film.mp4", "--lora", "ink.safetensors:0.5"],
    "pickled adapter": [*MORPH, "film.mp4", "--image-adapter", "ip-adapter.bin"],
    "image prompt": [*MORPH, "film.mp4", "--image-prompt", "0.5"],
    "unknown device": [*MORPH, "film.mp4", "--device", "gpu"],
    "invert": ["invert", "a.png", "missing.png", "-o", "film.mp4"],
    "remake": ["remake", "missing.mp4", "--frame", "1"],
    "remake of no frame": ["remake", "film.mp4", "--frame", "99"],
    "undo": ["undo", "missing.mp4"],
    "nothing to undo": ["undo", "film.mp4"],
    "redo": ["redo", "missing.mp4"],
    "pose": ["pose", "missing.png"],
    "pose of a text": ["pose", "text.png"],
    "film of poses": ["pose", "--between", "a.png", "b.png", "-o", "film.avi"],
    "check": ["check", "a.png", "missing.png"],
    "check of a text": ["check", "a.png", "text.png"],
    "batch": ["batch", "missing.csv", "-o", "films"],
    "batch of a missing picture": ["batch", "pairs.csv", "-o", "films"],
    "evaluate": ["evaluate", "missing.csv", "-o", "report"],
    "evaluate of a scheme": ["evaluate", "pairs.csv", "-o", "report", "--schemes", "magic"],
    "compare": ["evaluate", "--compare", "one", "other"],
    "studio's port": ["studio", "--port", "99999"],
    "studio's upload": ["studio", "--max-upload", "many"],
    "studio's run": ["studio", "text.png"],
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[1] / "src", help="where segue lies")
    parser.add_argument("--times", type=int, default=3, help="how often each command runs")
    arguments = parser.parse_args()
    source = arguments.source.absolute()
    with TemporaryDirectory() as folder:
        prepare(Path(folder))
        for name, command in COMMANDS.items():
            measure(command, Path(folder), source)
            found = [measure(command, Path(folder), source) for _ in range(arguments.times)]
            seconds, code, said = min(found)
            print(f"{name:28} {seconds:6.2f} s   exit {code}   {said[:90]}", flush=True)


def prepare(folder: Path) -> None:
    """Two pictures, a text, a film of somebody's, a manifest; and a run of two keyframes and nothing to undo."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64), "white").save(folder / name)
    for name in ("text.png", "there.mp4"):
        (folder / name).write_text("no picture")
    (folder / "pairs.csv").write_text("a,b\na.png,missing.png\n")
    (folder / "film").mkdir()
    keyframes = '{"source": "a.png", "pixels": "0"}, {"source": "b.png", "pixels": "1"}'
    run = '"settings": {"loop": false}, "size": [64, 64], "model": {"name": "pocket", "fingerprint": ""}'
    (folder / "film" / "run.json").write_text(f'{{"keyframes": [{keyframes}], "batch_size": 1, {run}}}')
    frames = ", ".join(f'{{"place": "{place}", "name": "{place}", "level": -1}}' for place in (0, 1))
    (folder / "film" / "films.json").write_text('{"../film.mp4": {}}')
    (folder / "film" / "state.json").write_text(f'{{"frames": [{frames}]}}')


def measure(command: list[str], folder: Path, source: Path) -> tuple[float, int, str]:
    """User and system seconds of a command, its exit code, and the last line that it says."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", "from segue.cli.app import main; main()", *command],
        cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        timeout=120,
    )  # fmt: skip
    after = os.times()
    seconds = after.children_user - before.children_user + after.children_system - before.children_system
    said = (done.stderr or done.stdout).strip().splitlines() or [""]
    return seconds, done.returncode, said[-1]


if __name__ == "__main__":
    main()
