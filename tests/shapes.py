"""Small pictures, and tiny interpolators that make films of them in a moment."""

import hashlib
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from diffusers import StableDiffusionPipeline
from PIL import Image
from tiny import tiny_pipe
from torch import Tensor

from segue.engine.interpolator import Interpolator
from segue.method.tree import FrameKey
from segue.run.folder import RunFolder

__all__ = ["QUICK", "contents", "latents", "picture", "pipe", "tiny_interpolator"]

QUICK: dict[str, Any] = {
    "network_size": "32x32",
    "num_frames": 5,
    "num_inference_steps": 6,
    "prompt": ("a cat", "a dog"),
    "pose": "off",
}


def picture(number: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A gradient with a disc on it, another one for each number."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    disc = (x - 0.3 - 0.1 * number) ** 2 + (y - 0.5) ** 2 < 0.04
    channels = [x * (number % 3 + 1) / 3, y, np.full_like(x, 0.2 + 0.15 * number)]
    pixels = np.where(disc[..., None], [0.9, 0.8 - 0.2 * number, 0.1], np.stack(channels, -1))
    return Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8))


@cache
def pipe(prediction_type: Literal["epsilon", "v_prediction"] = "epsilon") -> StableDiffusionPipeline:
    """A tiny pipe, shared by all tests."""
    return tiny_pipe(prediction_type)


@cache
def tiny_interpolator(prediction_type: Literal["epsilon", "v_prediction"] = "epsilon") -> Interpolator:
    """An interpolator with the tiny pipe."""
    return Interpolator(pipe(prediction_type), name="tiny")


def latents(path: Path) -> dict[FrameKey, Tensor]:
    """The latents (C, h, w) of a film's made frames, as the run folder holds them."""
    with RunFolder(path) as run:
        state = run.read("state.json")
        assert state is not None
        found = {
            FrameKey.at(Fraction(f["place"])): run.latent(f["cache_key"]) for f in state["frames"] if "cache_key" in f
        }
    return {key: latent for key, latent in found.items() if latent is not None}


def contents(path: Path, *parts: str) -> dict[str, str]:
    """A digest of each file in a run folder (or in some of its parts) by name."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    names = {file.relative_to(path).as_posix(): file for file in files}
    wanted = {name: file for name, file in names.items() if not parts or name.startswith(parts)}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in wanted.items()}
