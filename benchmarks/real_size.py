"""One denoising step of the engine against a bare loop over the same UNet, at Stable Diffusion 2.1's true shape.

    python benchmarks/real_size.py --size 512 --steps 1 --rounds 4

The weights are random: speed and memory do not depend on them. Both take turns in one process; the figure that counts
is the median of the turns' ratios. At the end a film of 3 frames is made, and the peak memory reported.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from segue import Interpolator
from segue.backbone import CLEAN, Sampling
from segue.backbone.stable_diffusion import StableDiffusion
from segue.models.loading import best_dtype

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import tiny_pipe

GUIDANCE = 7.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="pixels along a side")
    parser.add_argument("--steps", type=int, default=1, help="denoising steps in one turn")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="what the CPU does well if not given")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else best_dtype(torch.device("cpu"))

    pipe = stable_diffusion_21(dtype)
    loaded = peak_memory()
    backbone = StableDiffusion(pipe)
    words = backbone.embed(["a cat"], [""])
    z = torch.randn(1, 4, arguments.size // 8, arguments.size // 8)
    point = backbone.point(0.5)
    # Over the whole schedule so many that the leg from 0.5 takes the wanted steps.
    sampling = Sampling(num_inference_steps=2 * arguments.steps - 1, guidance_scale=GUIDANCE, solver="ddim")
    assert backbone.steps(point, CLEAN, sampling) == arguments.steps

    def engine() -> None:
        with backbone.evaluating():
            backbone.denoise(z, words, point, CLEAN, sampling=sampling)

    text = torch.cat([words.negative, words.prompt]).to(dtype)
    noisy = torch.cat([z, z]).to(dtype)

    def bare() -> None:
        with torch.no_grad():
            for _ in range(arguments.steps):
                pipe.unet(noisy, torch.tensor(500), encoder_hidden_states=text)

    bare()  # warm up
    turns = [(seconds(bare), seconds(engine)) for _ in range(arguments.rounds)]

    segue = Interpolator(pipe, name="random weights")
    colours = [Image.new("RGB", (arguments.size, arguments.size), colour) for colour in ("navy", "orange")]
    film = seconds(
        lambda: segue(*colours, num_frames=3, num_inference_steps=3, prompt="a cat", align=False, detail=0.0)
    )

    table = Table(
        title=f"Stable Diffusion 2.1's shape, {arguments.size} x {arguments.size}, {dtype}, guidance in one batch"
    )
    for column in ("", "median"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(f"bare loop, {arguments.steps} step(s)", f"{statistics.median(t[0] for t in turns):.2f} s")
    table.add_row(f"engine, {arguments.steps} step(s)", f"{statistics.median(t[1] for t in turns):.2f} s")
    table.add_row("engine / bare", f"{statistics.median(t[1] / t[0] for t in turns):.3f}")
    table.add_row("film of 3 frames", f"{film:.1f} s")
    table.add_row("peak memory after loading", f"{loaded:.1f} GB")
    table.add_row("peak memory in all", f"{peak_memory():.1f} GB")
    Console(width=100).print(table)


def stable_diffusion_21(dtype: torch.dtype) -> StableDiffusionPipeline:
    """A pipe of Stable Diffusion 2.1's true shape with random weights, made in its precision at once."""
    tokenizer = tiny_pipe().tokenizer
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_head_dim=(5, 10, 20, 20),
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=23,
                num_attention_heads=16,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    torch.manual_seed(0)
    networks = [_filled(network, dtype) for network in (vae, text, unet)]
    return StableDiffusionPipeline(
        networks[0], networks[1], tokenizer, networks[2], scheduler, None, None, requires_safety_checker=False
    )


def _filled(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A network that has no memory yet, with small random weights in a precision."""
    network = network.to_empty(device="cpu").to(dtype).eval()
    for name, weight in network.named_parameters():
        nn.init.normal_(weight, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.02)
    for name, buffer in network.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return network


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def peak_memory() -> float:
    """The largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
