"""Checkpoints in one file, in the layout of the original releases, loaded as diffusers pipelines without a network.

diffusers converts the weights; the configurations and the tokenizer that it would download lie in ``configs`` beside
this module. Which of them a file needs is read from its header.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)
from safetensors import safe_open
from torch import nn
from transformers import CLIPTokenizer

from segue.errors import SegueError, one_line, warn
from segue.models.checkpoints import INDEX
from segue.models.header import Family, Header, Prediction, family_of, prediction_of, read_header

__all__ = ["CONFIGS", "clip_tokenizer", "config_of", "load_file"]

CONFIGS = Path(__file__).parent / "configs"
END, FIRST_TOKEN = "<|endoftext|>", "!"
PADS: dict[Family, dict[str, str]] = {  # what the texts of each tokenizer are padded with
    "v1": {"tokenizer": END},
    "v2": {"tokenizer": FIRST_TOKEN},
    "xl": {"tokenizer": END, "tokenizer_2": FIRST_TOKEN},
}
# The bias by whose spread one can tell the two kinds of Stable Diffusion 2.x; above this it predicts v.
TELLTALE, SPREAD = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
AVERAGED, MANY = "model_ema.", 100  # weights averaged over the training beside the last ones


def load_file(
    path: Path,
    dtype: torch.dtype,
    *,
    controlnet: Any = None,
    prediction_type: Prediction | None = None,
    config: Path | None = None,
) -> Any:
    """Load a .safetensors file of a whole checkpoint as a diffusers pipeline.

    Args:
        path: the file.
        dtype: the precision of the networks.
        controlnet: a ControlNet for the pipeline, loaded.
        prediction_type: what the UNet predicts; as the file says if not given.
        config: a folder in diffusers layout whose configurations describe the networks; the family's if not given.

    Raises:
        SegueError: the file is something else, damaged, or lacks weights.

    Warns:
        Notice: a file of Stable Diffusion 2.x does not say what it predicts.
    """
    header = read_header(path)
    family = family_of(header)
    prediction = prediction_type or prediction_of(header) or _guess(path, header, family)
    folder = config or config_of(family, prediction)
    plain, controlled = (
        (StableDiffusionXLPipeline, StableDiffusionXLControlNetPipeline)
        if family == "xl"
        else (StableDiffusionPipeline, StableDiffusionControlNetPipeline)
    )
    parts = {name: clip_tokenizer(pad) for name, pad in PADS[family].items()}
    parts["scheduler"] = _scheduler(folder, prediction, zero_snr="ztsnr" in header.shapes)
    checker = {} if family == "xl" else {"safety_checker": None, "requires_safety_checker": False}
    averaged = sum(name.startswith(AVERAGED) for name in header.shapes) > MANY
    try:
        pipe = plain.from_single_file(
            str(path), config=str(folder), local_files_only=True, dtype=dtype, extract_ema=averaged, **parts, **checker
        )
    except NotImplementedError as error:  # what is not in the file stays without values, which torch cannot move
        raise SegueError(f"{path} cannot be loaded: its UNet or VAE lacks weights") from error
    except Exception as error:  # of many kinds, as for a damaged folder
        text = one_line(error)
        raise SegueError(f"{path} cannot be loaded: {text}") from error
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            _check_whole(part, f"{path} cannot be loaded: its {name} lacks weights")
    if controlnet is not None:
        pipe = controlled(**{**pipe.components, **checker}, controlnet=controlnet)
    pipe.register_to_config(_name_or_path=str(path))
    return pipe


def config_of(family: Family, prediction: Prediction) -> Path:
    """The folder of a family's configurations; Stable Diffusion 2.x has two, for 512 pixels (epsilon) and 768 (v)."""
    return CONFIGS / ("v2-base" if (family, prediction) == ("v2", "epsilon") else family)


def clip_tokenizer(pad: str = END) -> CLIPTokenizer:
    """The tokenizer of CLIP (Radford et al. 2021, arXiv 2103.00020), for texts of up to 77 tokens.

    Its 49,408 tokens are 256 bytes, each within a word and at its end, what each merge makes, and two marks.
    """
    vocabulary, merges = _vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77)


@cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The number of each token, and the pairs that are merged, in their order."""
    lines = (CONFIGS / "tokenizer" / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [(left, right) for left, right in (line.split(" ") for line in lines)]
    # Bytes that can be shown stand for themselves, the others for characters from 256 on.
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in shown] + [chr(256 + i) for i in range(256 - len(shown))]
    words = (f"{letter}</w>" for letter in letters)
    tokens = [*letters, *words, *(left + right for left, right in merges), "<|startoftext|>", END]
    return {token: number for number, token in enumerate(tokens)}, merges


def _guess(path: Path, header: Header, family: Family) -> Prediction:
    """What a network predicts where its file does not say it: epsilon, but in Stable Diffusion 2.x it may be v."""
    if family != "v2":
        return "epsilon"
    spread = 1.0
    if TELLTALE in header.shapes:
        with safe_open(path, framework="pt") as file:
            spread = float(file.get_tensor(TELLTALE).float().std(correction=0))
    found: Prediction = "v_prediction" if spread > SPREAD else "epsilon"
    other, size = ("epsilon", 768) if found == "v_prediction" else ("v_prediction", 512)
    warn(
        f"{path} does not say what it predicts; by its weights it is taken for Stable Diffusion 2.x at {size} pixels "
        f"({found}). If its frames are noise: --prediction-type {other}"
    )
    return found


def _scheduler(folder: Path, prediction: Prediction, *, zero_snr: bool) -> Any:
    """The scheduler of a family, for what the network predicts; with zero signal at the last timestep if asked for."""
    kind = json.loads((folder / INDEX).read_text(encoding="utf-8"))["scheduler"][1]
    scheduler = getattr(diffusers, "DDIMScheduler" if zero_snr else kind)  # PNDM's has no zero signal
    changes = {"prediction_type": prediction} | ({"rescale_betas_zero_snr": True} if zero_snr else {})
    return scheduler.from_config(scheduler.load_config(folder / "scheduler", local_files_only=True), **changes)


def _check_whole(network: nn.Module, fault: str) -> None:
    """Raise SegueError, which begins with a fault, if weights of a network were not in the file."""
    missing = [name for name, tensor in network.named_parameters() if tensor.is_meta]
    if missing:
        raise SegueError(f"{fault}, such as {min(missing)}")
