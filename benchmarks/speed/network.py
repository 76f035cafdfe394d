"""How fast the UNet runs by the frames in one call, against the machine's matrix products; what compiling it brings.

    python -m benchmarks.speed.network                    # pocket
    python -m benchmarks.speed.network --model sd21 --size 512 --batches 1 2 --compile

Compiling takes the blocks that repeat (diffusers' ``compile_repeated_blocks``), which is the cheapest way. It pays back
within a run that has more evaluations than are printed as its break-even.
"""

import argparse
import copy
import statistics
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.real_size import stable_diffusion_21
from benchmarks.speed.meter import machine, matrix_speed, operations, peak_memory, seconds, turns
from benchmarks.speed.shares import sample_of
from segue.files import write_json
from segue.models import loading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("pocket", "sd21"), default="pocket")
    parser.add_argument("--size", type=int, default=512, help="pixels along a side, for sd21")
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16], help="frames; guidance doubles them"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--output", type=Path, help="out/speed/network-MODEL-DEVICE.json if not given")
    arguments = parser.parse_args()
    device = loading.device_of(arguments.device)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else loading.best_dtype(device)
    if arguments.model == "pocket":
        pipe, side = loading.load(dtype=dtype, device=str(device)), None
    else:
        pipe, side = stable_diffusion_21(dtype).to(device), arguments.size // 8
    layouts = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    one = operations(partial(sample_of, pipe, 1, side))
    rows: list[dict[str, Any]] = []
    for frames in arguments.batches:
        times: dict[str, list[float]] = {layout: [] for layout in layouts}
        for round_ in range(arguments.rounds + 1):
            for layout, memory_format in layouts.items():
                pipe.unet.to(memory_format=memory_format)
                once = seconds(partial(sample_of, pipe, 2 * frames, side), device)
                if round_:  # the first one warms up
                    times[layout].append(once)
        speed = matrix_speed(device, dtype, budget=1.0)  # beside each batch: other work on the machine hits both
        with peak_memory(device) as memory:
            sample_of(pipe, 2 * frames, side)
        taken = {layout: statistics.median(found) for layout, found in times.items()}
        rows.append(
            {
                "frames": frames,
                "seconds": taken,
                "share_of_matrix_speed": {name: 2 * frames * one / t / speed for name, t in taken.items()},
                "matrix_flops": speed,
                "memory": dict(memory),
            }
        )
        print(rows[-1], flush=True)
    results: dict[str, Any] = {
        "machine": machine(device),
        "model": arguments.model,
        "dtype": str(dtype).removeprefix("torch."),
        "flop_per_sample": one,
        "rows": rows,
    }
    if arguments.compile:
        loading.laid_out(pipe, device)
        results["compile"] = compiled(pipe, 2 * max(arguments.batches), side, device, arguments.rounds)
        print(results["compile"])
    output = arguments.output or Path(f"out/speed/network-{arguments.model}-{device.type}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, results)


def compiled(pipe: Any, batch: int, side: int | None, device: torch.device, rounds: int) -> dict[str, float | None]:
    """What compiling the repeated blocks costs and brings, for a batch of samples; both networks take turns."""
    plain = SimpleNamespace(unet=copy.deepcopy(pipe.unet), tokenizer=pipe.tokenizer)
    pipe.unet.compile_repeated_blocks(fullgraph=False, dynamic=True)
    works = {name: partial(sample_of, one, batch, side) for name, one in (("plain", plain), ("compiled", pipe))}
    first = seconds(works["compiled"], device)
    found = turns(works, rounds, device)
    before, after = (statistics.median(found[name]) for name in works)
    return {
        "batch": batch,
        "seconds_before": before,
        "seconds_after": after,
        "seconds_to_compile": first - after,
        "break_even_evaluations": (first - after) / (before - after) * batch if before > after else None,
    }


if __name__ == "__main__":
    main()
