"""Pipes of the families' true shapes with random weights: speed and memory do not depend on them.

    python -m benchmarks.real_size xl --size 1024

prints how long one guided step of the engine takes beside a bare call of the network, in CPU seconds of the process,
taken in turns, and the process's peak memory after each part, decoding with and without ``low_memory`` included.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from segue.method.diffusion import CLEAN
from segue.models.backbone import Sampling
from segue.models.families import backbone_of, family_named
from segue.models.loading import save_memory
from segue.models.single_file import CONFIGS, clip_tokenizer

__all__ = ["random_pipe"]

LIBRARIES = {"diffusers": diffusers, "transformers": transformers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir()))
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    asked = parser.parse_args()
    dtype = getattr(torch, asked.dtype)
    pipe = random_pipe(asked.family, dtype)
    report("loaded")
    backbone: Any = backbone_of(pipe)
    words = backbone.embed(["a cat"], ["a dog"])
    z = torch.randn(1, 4, asked.size // 8, asked.size // 8)
    point, sampling = backbone.point(0.5), Sampling(num_inference_steps=1, guidance_scale=7.5, solver="ddim")
    with backbone.evaluating():
        inputs = backbone._inputs(words, z, 7.5)

    def step_bare() -> None:
        with torch.no_grad():
            pipe.unet(
                torch.cat([z, z]).to(dtype),
                torch.tensor(500),
                encoder_hidden_states=inputs.text,
                added_cond_kwargs=inputs.added or None,
            )

    def step_engine() -> None:
        backbone.denoise(z, words, point, CLEAN, sampling=sampling)

    ratios = []
    for i in range(asked.rounds):
        bare, engine = time_work(step_bare), time_work(step_engine)
        ratios.append(engine / bare)
        print(f"round {i}: bare {bare:.1f} s, engine {engine:.1f} s, engine / bare {ratios[-1]:.3f}", flush=True)
    report("one step")
    save_memory(pipe, torch.device("cpu"))
    backbone.decode(z)
    report("decoded with low_memory")
    pipe.vae.disable_tiling()
    pipe.vae.disable_slicing()
    backbone.decode(z)
    report("decoded")


def random_pipe(family: str, dtype: torch.dtype) -> Any:
    """A pipe of a family's true shape, by the configurations of single files, made in its precision at once."""
    folder = CONFIGS / family
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    parts: dict[str, Any] = {}
    torch.manual_seed(0)
    for name in ("vae", "text_encoder", "text_encoder_2", "unet"):
        if (entry := index.get(name)) is not None and entry[0] is not None:
            kind: Any = getattr(LIBRARIES[entry[0]], entry[1])
            settings = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
            with torch.device("meta"):
                is_text = entry[0] == "transformers"
                network = kind(kind.config_class(**settings)) if is_text else kind.from_config(settings)
            parts[name] = fill(network, dtype)
            parts |= {name.replace("text_encoder", "tokenizer"): clip_tokenizer()} if is_text else {}
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    parts["scheduler"] = getattr(diffusers, scheduler["_class_name"]).from_config(scheduler)
    known = family_named(index["_class_name"])
    assert known is not None
    if known.pipe == "StableDiffusionPipeline":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = getattr(diffusers, known.pipe)(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fill(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A network that has no memory yet, with small random weights in a precision."""
    network = network.to(dtype).to_empty(device="cpu").eval()
    for name, weight in network.named_parameters():
        nn.init.normal_(weight, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.02)
    for name, buffer in network.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return network


def time_work(work: Callable[[], object]) -> float:
    """The process's CPU seconds of a work."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def report(what: str) -> None:
    """Print the most memory that the process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {peak:.2f} GB at most", flush=True)


if __name__ == "__main__":
    main()
