"""The largest memory: pocket's command in all, and Stable Diffusion 2.1's shape on an accelerator with --low-memory.

    python -m benchmarks.speed.memory                     # pocket, and the estimate for 2.1 on this CPU
    python -m benchmarks.speed.memory --device cuda       # 2.1 measured, with networks that come and go

Without an accelerator nothing can be offloaded. Then what the largest network needs is added up: its weights in half
precision, and half of what one frame takes in float32 on the CPU beside the weights. That is an estimate, not a
measurement.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.real_size import stable_diffusion_21
from benchmarks.speed.meter import GB, machine, peak_memory
from benchmarks.speed.shares import EXAMPLES, sample_of
from benchmarks.speed.startup import command, peak_of_children
from benchmarks.speed.transcription import decoded
from segue import Interpolator
from segue.files import write_json
from segue.models.loading import device_of, spared

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="pixels along a side")
    parser.add_argument("--device")
    parser.add_argument("--only", choices=("pocket", "sd21"))
    parser.add_argument("--output", type=Path, help="out/speed/memory-DEVICE.json if not given")
    arguments = parser.parse_args()
    device = device_of(arguments.device)
    results: dict[str, Any] = {"machine": machine(device), "size": arguments.size}
    if arguments.only != "sd21":
        results["pocket"] = {"resident": pocket()}
        print(results["pocket"], flush=True)
    if arguments.only != "pocket":
        side = arguments.size // 8
        results["sd21"] = offloaded(arguments.size, device) if device.type != "cpu" else estimated(side)
        print(results["sd21"])
    output = arguments.output or Path(f"out/speed/memory-{device.type}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, results)


def pocket() -> float:
    """The largest resident memory of ``segue morph --low-memory`` with pocket, in GB."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = [str(EXAMPLES / "cat.png"), str(EXAMPLES / "tiger.png")]
        command(["morph", *pictures, "-o", str(Path(folder) / "film.mp4"), "--quiet", "--low-memory"])
    return peak_of_children()


def offloaded(size: int, device: torch.device) -> dict[str, float]:
    """The largest memory on the accelerator while a film of 3 frames is made, in GB."""
    segue = Interpolator(spared(stable_diffusion_21(torch.float16), device), name="random weights")
    segue.low_memory = True
    pictures = [EXAMPLES / "cat.png", EXAMPLES / "tiger.png"]
    options: dict[str, Any] = {
        "num_frames": 3,
        "num_inference_steps": 4,
        "prompt": "a cat",
        "width": size,
        "height": size,
    }
    with tempfile.TemporaryDirectory() as folder, peak_memory(device) as memory:
        segue(*pictures, output=Path(folder) / "run", **options)
    return memory


def estimated(side: int) -> dict[str, Any]:
    """Weights and what one frame takes beside them, in GB, each network in a process of its own."""
    found: dict[str, Any] = {}
    for name in ("unet", "vae"):
        code = f"from benchmarks.speed.memory import beside_weights as f; print(*f({name!r}, {side}))"
        done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
        weights, beside = map(float, done.stdout.split()[-2:])
        found[name] = {"weights_float32": weights, "beside_float32": beside, "half": (weights + beside) / 2}
    found["half"] = max(found[name]["half"] for name in ("unet", "vae"))
    return found


def beside_weights(name: str, side: int) -> tuple[float, float]:
    """The weights of a network of 2.1's shape in float32, and what one frame takes beside them, in GB."""
    pipe = stable_diffusion_21(torch.float32)
    network = getattr(pipe, name)
    weights = sum(weight.numel() for weight in network.parameters()) * 4 / GB
    with peak_memory(CPU) as memory, torch.no_grad():
        if name == "unet":
            sample_of(pipe, 2, side)  # one frame, both branches of guidance
        else:
            decoded(pipe, torch.randn(1, 4, side, side))
    return weights, memory["resident"] - memory["before"]


if __name__ == "__main__":
    main()
