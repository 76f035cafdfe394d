"""How long ``segue morph`` takes as a command, cold and warm, and what starting costs.

    python -m benchmarks.speed.startup

Cold is a new process whose libraries and weights the operating system has not read for a while (their pages are given
back before; a hint that Linux follows for files that nobody else has open). Warm is a new process after such a one.
Loaded is the same film in a process that has the model loaded: what a second film costs in the studio, in ``segue
batch`` and in a library's user's program.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.speed.meter import machine, seconds
from benchmarks.speed.shares import EXAMPLES, film
from segue import Interpolator
from segue.files import write_json
from segue.models import pocket_folder

CPU = torch.device("cpu")
IMPORTS = ("torch", "transformers", "diffusers", "segue.make")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-frames", type=int, default=17)
    parser.add_argument("--output", type=Path, default=Path("out/speed/startup.json"))
    arguments = parser.parse_args()
    frames = ["--num-frames", str(arguments.num_frames)]
    cold, warm, helped, versions = [], [], [], []
    for _ in range(arguments.rounds):
        forget()
        cold.append(morph(frames))
        warm.append(morph(frames))
        helped.append(seconds(lambda: command(["--help"]), CPU))
        versions.append(seconds(lambda: command(["morph", "--help"]), CPU))
        print(f"cold {cold[-1]:.2f} s, warm {warm[-1]:.2f} s, --help {helped[-1]:.2f} s", flush=True)
    segue = Interpolator.from_pretrained()
    film(segue, arguments.num_frames, 0)
    loaded = [seconds(lambda: film(segue, arguments.num_frames, 1), CPU) for _ in range(arguments.rounds)]
    results = {
        "machine": machine(CPU),
        "num_frames": arguments.num_frames,
        "cold": statistics.median(cold),
        "warm": statistics.median(warm),
        "loaded": statistics.median(loaded),
        "help": statistics.median(helped),
        "morph_help": statistics.median(versions),
        "imports": imports(),
        "peak_memory": peak_of_children(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, results)
    print(json.dumps(results, indent=1))


def morph(options: Sequence[str]) -> float:
    """The seconds of one ``segue morph`` of the example pictures."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = [str(EXAMPLES / "cat.png"), str(EXAMPLES / "tiger.png")]
        prompts = ["--prompt", "cat", "--prompt", "tiger"]
        output = str(Path(folder) / "film.mp4")
        return seconds(lambda: command(["morph", *pictures, "-o", output, *prompts, *options, "--quiet"]), CPU)


def command(arguments: Sequence[str]) -> None:
    """Run the command line in a new process."""
    code = "import sys; from segue.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)


def forget() -> None:
    """Ask the operating system to give back what it keeps in memory of the libraries' and the weights' files."""
    os.sync()
    for folder in (Path(sysconfig.get_paths()["purelib"]), pocket_folder()):
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix in (".py", ".pyc", ".so", ".safetensors", ".json", ".txt"):
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def imports() -> dict[str, float]:
    """The seconds until each library is imported, one after the other, in a new process."""
    lines = "; ".join(f"import {name}; found[{name!r}] = time.perf_counter() - begun" for name in IMPORTS)
    code = f"import json, time; begun = time.perf_counter(); found = {{}}; {lines}; print(json.dumps(found))"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def peak_of_children() -> float:
    """The largest memory of any command that was run, in GB."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
