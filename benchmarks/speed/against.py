"""The engine against a plain transcription of the paper's procedure, on the same weights and machine.

    python -m benchmarks.speed.against                    # pocket, 17 frames
    python -m benchmarks.speed.against --model sd21       # Stable Diffusion 2.1's shape with random weights

Three ways take turns in one process: (a) the transcription: float32, DDIM over 200 steps, one frame, one candidate and
one branch of guidance at a time; (b) the engine at the same settings, in float32 and in the precision that it chooses
for the device; (c) the engine with its default solver and steps. All use the same noise, prompts and guidance.

With ``sd21`` single steps are timed, and multiplied by the counted steps of a film of 17 frames.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler

from benchmarks.real_size import stable_diffusion_21
from benchmarks.speed.meter import (
    machine,
    matrix_speed,
    median_ratio,
    metered,
    operations,
    peak_memory,
    seconds,
    turns,
)
from benchmarks.speed.pair import Films, counted, distance, plain_pipe
from benchmarks.speed.shares import networks_of, sample_of
from benchmarks.speed.transcription import Procedure, decoded, frame_steps
from segue import Interpolator
from segue.backbone import CLEAN, Sampling
from segue.backbone.conditioning import TextConditioning
from segue.backbone.stable_diffusion import StableDiffusion
from segue.files import write_json
from segue.models.loading import best_dtype, device_of, laid_out, quiet
from segue.settings import MorphSettings
from segue.tree import UniformTree, noise_levels

PAPER, SAME, NATIVE, DEFAULT = "(a) transcription", "(b) same settings", "(b) as it comes", "(c) default"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("pocket", "sd21"), default="pocket")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-frames", type=int, default=17)
    parser.add_argument("--num-inference-steps", type=int, default=200, help="of (a) and (b)")
    parser.add_argument("--guidance-scale", type=float, default=MorphSettings().guidance_scale)
    parser.add_argument("--size", type=int, default=512, help="pixels along a side, for sd21")
    parser.add_argument("--device")
    parser.add_argument("--dtype", help="what (b) and (c) choose for the device if not given")
    parser.add_argument("--output", type=Path, help="out/speed/against-MODEL-DEVICE.json if not given")
    arguments = parser.parse_args()
    device = device_of(arguments.device)
    procedure = Procedure(
        num_frames=arguments.num_frames,
        num_inference_steps=arguments.num_inference_steps,
        guidance_scale=arguments.guidance_scale,
    )
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else best_dtype(device)
    measured = pocket if arguments.model == "pocket" else real_size
    results = {
        "machine": machine(device),
        "model": arguments.model,
        "num_frames": procedure.num_frames,
        "num_inference_steps": procedure.num_inference_steps,
        "guidance_scale": procedure.guidance_scale,
        "default": {"solver": MorphSettings().solver, "num_inference_steps": MorphSettings().num_inference_steps},
        "dtype": str(dtype).removeprefix("torch."),
        **measured(procedure, device, dtype, arguments),
    }
    for name, way in results["ways"].items():
        print(f"{name}: {way}")
    output = arguments.output or Path(f"out/speed/against-{arguments.model}-{device.type}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, results)


def pocket(procedure: Procedure, device: torch.device, dtype: torch.dtype, arguments: Any) -> dict[str, Any]:
    """Whole films with pocket."""
    films = Films(procedure)
    paper = plain_pipe(device)
    same = Interpolator.from_pretrained(dtype="float32", device=str(device))
    native = same
    if dtype != torch.float32:
        native = Interpolator.from_pretrained(dtype=str(dtype).removeprefix("torch."), device=str(device))
    matching = {"solver": "ddim", "num_inference_steps": procedure.num_inference_steps}
    works: dict[str, tuple[Any, Callable[[], torch.Tensor]]] = {
        PAPER: (paper, lambda: films.by_the_paper(paper)),
        SAME: (pipe_of(same), lambda: films.by_the_engine(same, **matching)),
        DEFAULT: (pipe_of(native), lambda: films.by_the_engine(native)),
    }
    if native is not same:
        works[NATIVE] = pipe_of(native), lambda: films.by_the_engine(native, **matching)

    # Once each, for what does not change: the images, the calls, the memory, the UNet's speed.
    speeds = {precision: matrix_speed(device, precision) for precision in {torch.float32, dtype}}
    ways: dict[str, dict[str, Any]] = {}
    frames: dict[str, torch.Tensor] = {}
    for name, (pipe, work) in works.items():
        with counted(pipe.unet) as calls, peak_memory(device) as memory, metered(networks_of(pipe), device) as meter:
            frames[name] = work()
        one = operations(partial(sample_of, pipe, 1))
        unet = meter.networks["unet"]
        reached = one * unet.samples / unet.seconds / speeds[pipe.unet.dtype]
        ways[name] = {
            "calls": calls.calls,
            "samples": calls.samples,
            "memory": dict(memory),
            "share_of_matrix_speed": reached,
            "outside_of_networks": meter.outside,
        }
        print(name, ways[name], flush=True)
    other_seed = replace(films, seed=films.seed + 1).by_the_engine(native)
    between_seeds = distance(frames[DEFAULT], other_seed)

    found = turns({name: work for name, (_, work) in works.items()}, arguments.rounds, device, warm=False)
    for name, way in ways.items():
        way["seconds"] = statistics.median(found[name])
        way["times_faster"] = median_ratio(found[PAPER], found[name])
        way["distance"] = distance(frames[PAPER], frames[name])
        way["distance_over_seeds"] = way["distance"] / between_seeds
    return {
        "matrix_flops": {str(name).removeprefix("torch."): speed for name, speed in speeds.items()},
        "distance_between_seeds": between_seeds,
        "turns": found,
        "ways": ways,
    }


def real_size(procedure: Procedure, device: torch.device, dtype: torch.dtype, arguments: Any) -> dict[str, Any]:
    """Single steps at Stable Diffusion 2.1's shape, multiplied by the steps of a film."""
    side = arguments.size // 8
    with quiet():
        pipe = stable_diffusion_21(torch.float32).to(device)
        # The engine's own, of the same weights, as ``models.load`` has them.
        pipes = {one: laid_out(stable_diffusion_21(one), device).to(device) for one in {torch.float32, dtype}}
    scheduler = DDIMScheduler.from_config(pipes[dtype].scheduler.config)
    steps = {
        PAPER: sum(frame_steps(procedure, scheduler)),
        SAME: engine_steps(pipes[dtype], procedure, "ddim", procedure.num_inference_steps),
        DEFAULT: engine_steps(pipes[dtype], procedure, MorphSettings().solver, MorphSettings().num_inference_steps),
    }
    noise = torch.randn(1, 4, side, side).to(device)
    text = torch.randn(1, 77, 1024).to(device)

    @torch.no_grad()
    def by_the_paper() -> None:
        for _ in range(2):  # guidance as two calls
            pipe.unet(noise, 500, encoder_hidden_states=text)

    engines = {precision: StableDiffusion(one) for precision, one in pipes.items()}
    batch = engines[dtype].frames_at_once((arguments.size, arguments.size))
    works: dict[str, Callable[[], object]] = {PAPER: by_the_paper}
    for name, precision in {SAME: torch.float32, **({NATIVE: dtype} if len(pipes) > 1 else {})}.items():
        works[name] = partial(engine_step, engines[precision], batch, side, procedure.guidance_scale)
    memories: dict[str, dict[str, float]] = {}
    for name, work in works.items():
        with peak_memory(device) as memory:
            work()  # which also warms up
        memories[name] = dict(memory)
    found = turns(works, arguments.rounds, device, warm=False)
    decoding = {precision: seconds(partial(decode_one, one, side), device) for precision, one in pipes.items()}
    speeds = {precision: matrix_speed(device, precision) for precision in pipes}
    one = operations(partial(sample_of, pipe, 1, side))
    made = procedure.num_frames - 2
    ways: dict[str, dict[str, Any]] = {}
    native = NATIVE if NATIVE in works else SAME
    for name, timed in {**{name: name for name in works}, DEFAULT: native}.items():
        precision = dtype if timed == NATIVE else torch.float32
        count = steps.get(name, steps[SAME])
        each = statistics.median(found[timed]) / (1 if timed == PAPER else batch)
        ways[name] = {
            "samples": 2 * count,
            "calls": 2 * count if timed == PAPER else None,
            "seconds_per_frame_step": each,
            "seconds": count * each + made * decoding[precision],
            "memory": memories[timed],
            "share_of_matrix_speed": 2 * one / each / speeds[precision],
        }
    for way in ways.values():
        way["times_faster"] = ways[PAPER]["seconds"] / way["seconds"]
    return {
        "size": arguments.size,
        "batch": batch,
        "matrix_flops": {str(name).removeprefix("torch."): speed for name, speed in speeds.items()},
        "flop_per_sample": one,
        "turns": found,
        "ways": ways,
    }


def engine_steps(pipe: Any, procedure: Procedure, solver: str, num_inference_steps: int) -> int:
    """The denoising steps of all frames of the engine's film."""
    backbone = StableDiffusion(pipe)
    sampling = Sampling(solver=solver, num_inference_steps=num_inference_steps, guidance_scale=1.0)
    levels = noise_levels(UniformTree.depth(procedure.num_frames, 2), *procedure.noise, "linear")
    legs = [backbone.steps(backbone.point(f), CLEAN, sampling) for f in levels]
    return sum(2**number * leg for number, leg in enumerate(legs))


def engine_step(backbone: StableDiffusion, batch: int, side: int, guidance_scale: float) -> None:
    """One denoising step of a batch of frames; prompts are embedded once in a film, so not here."""
    sampling = Sampling(solver="ddim", num_inference_steps=1, guidance_scale=guidance_scale)
    text = torch.randn(2, batch, 77, 1024)
    words = TextConditioning(text[0], text[1])
    with backbone.evaluating():
        backbone.denoise(torch.randn(batch, 4, side, side), words, backbone.point(0.5), CLEAN, sampling=sampling)


@torch.no_grad()
def decode_one(pipe: Any, side: int) -> None:
    """One image out of a latent."""
    decoded(pipe, torch.randn(1, 4, side, side).to(pipe.vae.device, pipe.vae.dtype))


def pipe_of(segue: Interpolator) -> Any:
    """The pipe that an interpolator works with."""
    return segue.backbone.pipe  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
