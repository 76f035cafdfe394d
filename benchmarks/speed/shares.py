"""Where the time of a film goes: in which network, and how much outside of all of them.

    python -m benchmarks.speed.shares --rounds 3

Films of pocket's two example pictures, made with the model loaded, one after the other. The engine's own share is all
time outside of the networks: noise, blends, solver, files, pictures. Of that, what compressing and writing the files of
the run and the film takes is told apart. On a machine that is busy with other work,
``--cpu-time`` with OMP_NUM_THREADS=1 measures the processor's time instead of the clock's.
"""

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.speed.meter import machine, matrix_speed, metered, operations
from segue import Interpolator, morph
from segue.files import write_json
from segue.pose.detect import pocket_network
from segue.run import RunFolder

EXAMPLES = Path(__file__).parents[2] / "examples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-frames", type=int, default=17)
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--cpu-time", action="store_true", help="the processor's time, on a busy machine")
    parser.add_argument("--profile", action="store_true", help="print where Python spends its time")
    parser.add_argument("--output", type=Path, default=Path("out/speed/shares.json"))
    arguments = parser.parse_args()
    segue = Interpolator.from_pretrained(dtype=arguments.dtype, device=arguments.device)
    pipe: Any = segue.backbone.pipe  # type: ignore[attr-defined]
    device, dtype = pipe.device, pipe.unet.dtype
    networks = networks_of(pipe)
    film(segue, arguments.num_frames, 0)  # warm up
    speed = matrix_speed(device, dtype)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    rows = []
    for round_ in range(arguments.rounds):
        with metered(networks, device, clock) as meter, clocked(clock) as files:
            film(segue, arguments.num_frames, round_)
        taken = {"seconds": meter.seconds, "outside": meter.outside, "files": together(files) / meter.seconds}
        rows.append({**taken, **shares(meter.networks)})
        print(rows[-1], flush=True)
    if arguments.profile:
        with cProfile.Profile(time.thread_time) as profile:
            film(segue, arguments.num_frames, 99)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    calls = {name: asdict(found) for name, found in meter.networks.items()}
    unet = calls["unet"]
    one = operations(lambda: sample_of(pipe, 1))
    results = {
        "machine": machine(device),
        "dtype": str(dtype),
        "num_frames": arguments.num_frames,
        "clock": "processor" if arguments.cpu_time else "wall",
        "rounds": rows,
        "networks": calls,
        "outside": statistics.median(row["outside"] for row in rows),
        "files": statistics.median(row["files"] for row in rows),
        "matrix_flops": speed,
        "unet_flop_per_sample": one,
        "unet_share_of_matrix_speed": one * unet["samples"] / unet["seconds"] / speed,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, results)
    print(f"outside of the networks {results['outside']:.1%}, {results['files']:.1%} of it files; ", end="")
    print(f"the UNet runs at {results['unet_share_of_matrix_speed']:.0%} of the matrix products' speed")


def film(segue: Interpolator, num_frames: int, seed: int, **settings: Any) -> None:
    """A film of the two example pictures, with the defaults of ``segue morph``; written as a film too."""
    pictures = [EXAMPLES / "cat.png", EXAMPLES / "tiger.png"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        made = segue(
            *pictures, output=path / "run", num_frames=num_frames, seed=seed, prompt=("cat", "tiger"), **settings
        )
        made.save(path / "film.mp4")


@contextmanager
def clocked(clock: Callable[[], float]) -> Iterator[list[tuple[float, float]]]:
    """When each file is written, begin and end: pictures, latents and state of the run, and the film."""
    found: list[tuple[float, float]] = []

    def timed(write: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **options: Any) -> Any:
            begun = clock()
            try:
                return write(*arguments, **options)
            finally:
                found.append((begun, clock()))

        return measured

    with ExitStack() as patches:
        for place, name in (
            (RunFolder, "save_image"),
            (RunFolder, "save_latents"),
            (RunFolder, "write"),
            (RunFolder, "settle"),
            (morph, "write_film"),
        ):
            patches.enter_context(patch.object(place, name, timed(getattr(place, name))))
        yield found


def together(spans: Sequence[tuple[float, float]]) -> float:
    """The time that spans take, where those at the same time count once."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total


def networks_of(pipe: Any) -> dict[str, nn.Module]:
    """The networks of a pipe by name, and the one that looks for people in the keyframes."""
    parts = ("unet", "vae", "text_encoder", "controlnet")
    found = {name: part for name in parts if (part := getattr(pipe, name, None)) is not None}
    return {**found, "pose": pocket_network()}


def shares(networks: dict[str, Any]) -> dict[str, float]:
    """The seconds in each network."""
    return {name: calls.seconds for name, calls in networks.items()}


def sample_of(pipe: Any, batch: int, size: int | None = None) -> None:
    """One call of a pipe's UNet on noise."""
    unet = pipe.unet
    side = size or int(unet.config.sample_size)
    z = torch.randn(batch, unet.config.in_channels, side, side)
    text = torch.randn(batch, pipe.tokenizer.model_max_length, unet.config.cross_attention_dim)
    with torch.no_grad():
        unet(z.to(unet.device, unet.dtype), 500, encoder_hidden_states=text.to(unet.device, unet.dtype))


if __name__ == "__main__":
    main()
