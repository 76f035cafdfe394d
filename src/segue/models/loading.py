"""Loading checkpoints as diffusers pipelines, from the disk or, where a hub name asks for it, from the hub."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from os import PathLike
from pathlib import Path
from threading import RLock
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.pipelines import stable_diffusion
from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from segue.errors import SegueError, one_line
from segue.machine import best_dtype, device_of, dtype_of, has_cpu_extension
from segue.models.additions import add_embeddings, add_loras, replace_vae
from segue.models.cache import find_cached
from segue.models.checkpoints import (
    CONFIG,
    INDEX,
    check_controlnet,
    check_folder,
    check_index,
    check_variant,
    check_whole,
    checker_of,
    resolve_name,
    variant_of,
)
from segue.models.controlnets import check_fit
from segue.models.families import check_takes_additions
from segue.models.header import Prediction, check_additions, check_file
from segue.models.image_prompts import add_image_adapter
from segue.models.single_file import load_file

__all__ = ["load", "locate", "quiet", "save_memory", "set_memory_format"]

QUIETING = RLock()  # what is quiet is the same for all threads
TILE = 512  # pixels along one side of the tiles in which little memory is needed
CODE = {"diffusers": diffusers, "transformers": transformers, "stable_diffusion": stable_diffusion}  # of parts


def load(
    name_or_path: str | PathLike[str] | None = None,
    *,
    controlnet: str | PathLike[str] | None = None,
    image_adapter: str | PathLike[str] | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    low_memory: bool = False,
    variant: str | None = None,
    revision: str | None = None,
    prediction_type: Prediction | None = None,
    vae: Path | None = None,
    loras: Sequence[tuple[Path, float]] = (),
    embeddings: Sequence[Path] = (),
) -> Any:
    """Load a checkpoint as a diffusers pipeline.

    Args:
        name_or_path: a hub name, a folder in diffusers layout, a .safetensors file, or None (or "pocket") for the
            embedded model.
        controlnet: a ControlNet by hub name or folder; the checkpoint's own, where it has one, if not given.
        image_adapter: an IP-Adapter, which takes pictures as prompts: as ``add_image_adapter`` takes it.
        dtype: the precision of the networks; what the device does well if not given.
        device: where they run; the best there is if not given.
        low_memory: keep on an accelerator only the network that computes, and work on images one by one and in tiles.
        variant: which weights of a folder or hub name, such as "fp16"; the plain ones, or half precision where there
            are no others, if not given.
        revision: a branch, a tag or a commit of a hub name.
        prediction_type: what the UNet predicts; as the checkpoint says if not given.
        vae: a folder or file of a VAE in place of the checkpoint's own.
        loras: files of LoRAs, each with its weight.
        embeddings: files of learnt tokens.

    Raises:
        SegueError: an unknown name or device, no network, another family, pickled weights only.
    """
    where = device_of(device)
    check_additions(vae, [path for path, _ in loras], embeddings)
    precision = dtype_of(dtype) if dtype else best_dtype(where)
    folder = locate(name_or_path, variant=variant, revision=revision)
    is_file = folder.is_file()
    (check_file if is_file else check_folder)(folder, str(name_or_path or "pocket"))
    if (vae or embeddings or image_adapter or prediction_type) and not is_file:
        check_takes_additions(check_index(folder / INDEX, str(name_or_path or "pocket")))
    if variant:
        check_variant(folder, str(name_or_path or "pocket"), variant)
    if controlnet is None and (folder / "controlnet" / CONFIG).exists():
        controlnet = folder / "controlnet"
        if (folder / "controlnet_1").is_dir():
            raise SegueError(f"{folder} has several ControlNets; name the one to use, such as {controlnet}")
    network = None if controlnet is None else locate(controlnet, kind="controlnet")
    if network is not None:
        check_controlnet(network, str(controlnet))
    with quiet():
        control = None if network is None else _network(_controlnet_class(network), network, precision)
        if is_file:
            pipe = load_file(folder, precision, controlnet=control, prediction_type=prediction_type)
        else:
            pipe = _pipe(folder, precision, control, variant)
            if prediction_type:
                pipe.scheduler.register_to_config(prediction_type=prediction_type)
        if control is not None:
            check_fit(control, pipe, str(controlnet), str(name_or_path or "pocket"))
        if vae is not None:
            replace_vae(pipe, vae)
        if loras:
            add_loras(pipe, loras)
        add_embeddings(pipe, embeddings)
        if image_adapter is not None:
            add_image_adapter(pipe, image_adapter)
        pipe.set_progress_bar_config(disable=True)
        set_memory_format(pipe, where)
        return save_memory(pipe, where) if low_memory else pipe.to(where)


def set_memory_format(pipe: Any, device: torch.device) -> Any:
    """A pipe whose convolutions keep their weights in the order in which a device computes them fastest.

    That is channels last, but for the UNet and the ControlNet in bfloat16 on a CPU without AMX: measured by
    ``benchmarks/speed/network.py``, they are up to a seventh faster in the contiguous order there. Autoencoders of
    videos, whose weights have five dimensions, are left as they are.
    """
    by_avx = device.type == "cpu" and not has_cpu_extension("amx_bf16")
    for name in ("unet", "vae", "controlnet"):
        network = getattr(pipe, name, None)
        if network is not None and all(weight.ndim < 5 for weight in network.parameters()):
            contiguous = by_avx and network.dtype == torch.bfloat16 and name != "vae"
            network.to(memory_format=torch.contiguous_format if contiguous else torch.channels_last)
    return pipe


def save_memory(pipe: Any, device: torch.device) -> Any:
    """A pipe that needs little memory: networks come to an accelerator when they compute; images in slices and tiles.

    All of it is diffusers' own. A network as a whole comes and goes (a UNet that is alone too large for the
    accelerator needs diffusers' sequential offloading, which is many times slower). A CPU has nothing to offload to.
    """
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    if getattr(pipe.vae, "tile_sample_min_size", 0) > TILE:  # by default as large as the pictures of training
        pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = TILE, TILE // pipe.vae_scale_factor
    if device.type == "cpu":
        return pipe.to(device)
    pipe.enable_model_cpu_offload(device=device)
    return pipe


def locate(
    name_or_path: str | PathLike[str] | None,
    *,
    kind: str = "model",
    variant: str | None = None,
    revision: str | None = None,
) -> Path:
    """The folder or file of a checkpoint; a hub name is downloaded (safetensors only) unless it is on disk.

    Args:
        name_or_path: a hub name, a folder, or None (or "pocket") for the embedded one.
        kind: "model" or "controlnet".
        variant: which weights of a folder or hub name.
        revision: a branch, a tag or a commit of a hub name.

    Raises:
        SegueError: no such name or folder, no network, or what the name stands for cannot be used.
    """
    found = resolve_name(name_or_path, kind=kind)
    if isinstance(found, Path):
        if revision or (variant and found.is_file()):
            option, of = ("revision", "a hub name") if revision else ("variant", "a folder or hub name")
            raise SegueError(f"{option} chooses among the weights of {of}, which {found} is not")
        return found
    if (folder := find_cached(found, kind, variant=variant, revision=revision)) is not None:
        return folder
    with quiet():
        return _download(found, kind, variant, revision)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' progress bars and notes while something is loaded; what a download shows stays."""
    with QUIETING:
        yield from _quiet()


def _quiet() -> Iterator[None]:
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


def _download(name: str, kind: str, variant: str | None, revision: str | None) -> Path:
    """Download a checkpoint, and of it only what is used; what it is, is looked at before its weights come."""
    try:
        if kind == "model":
            family = check_index(Path(hf_hub_download(name, INDEX, revision=revision)), name)
            options = {"variant": variant or _half_only(name, family.network, revision), "revision": revision}
            folder = Path(DiffusionPipeline.download(name, use_safetensors=True, **options))
        else:
            weights = f"diffusion_pytorch_model{f'.{half}' if (half := _half_only(name, '', None)) else ''}"
            patterns = [CONFIG, f"{weights}.safetensors", f"{weights}-*.safetensors", "*.safetensors.index*.json"]
            folder = Path(snapshot_download(name, allow_patterns=patterns))
    except SegueError:
        raise
    except LocalEntryNotFoundError as error:
        raise SegueError(f"{kind} '{name}' is not on disk, and the hub cannot be reached") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no answer")
        raise SegueError(f"{kind} '{name}' cannot be downloaded from the hub ({status}); check the name") from error
    except Exception as error:  # the network's and the libraries' many own kinds
        raise SegueError(f"{kind} '{name}' cannot be downloaded: {one_line(error)}") from error
    checker_of(kind)(folder, name)
    return folder


def _half_only(name: str, folder: str, revision: str | None) -> str | None:
    """The variant in half precision where the hub has no other weights of a network; None if it cannot be asked."""
    try:
        files = [Path(file) for file in list_repo_files(name, revision=revision)]
    except Exception:  # the download says what is wrong
        return None
    return variant_of(file.name for file in files if file.parent == Path(folder))


def _pipe(folder: Path, dtype: torch.dtype, controlnet: Any, variant: str | None) -> Any:
    """The pipeline of a checkpoint's folder, with a ControlNet if there is one."""
    family = check_index(folder / INDEX, str(folder))
    if controlnet is not None and not family.controlled:
        raise SegueError(f"ControlNets of {family.name} are not supported")
    wanted = family.pipe if controlnet is None else family.controlled
    if (kind := getattr(diffusers, wanted, None)) is None:
        raise SegueError(f"{family.name} needs a diffusers that has {wanted}; {diffusers.__version__} is too old")
    parts = {} if controlnet is None else {"controlnet": controlnet}
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    for part in (*family.networks, "safety_checker"):
        library, name = index.get(part) or (None, None)
        if library is not None and (folder / part).is_dir():
            if (code := getattr(CODE[library], str(name), None)) is None:
                raise SegueError(f"{folder} cannot be loaded: {library} here has no {name} for its {part}")
            parts[part] = _network(code, folder / part, dtype, variant)
    if "safety_checker" not in parts and "safety_checker" in signature(kind).parameters:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    if "image_encoder" in index:
        parts["image_encoder"] = None  # of an IP-Adapter, which is not used
    with _in_one_line(folder):
        return kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True, **parts)


def _controlnet_class(folder: Path) -> Any:
    """The class of a ControlNet, in diffusers."""
    return getattr(diffusers, json.loads((folder / CONFIG).read_text(encoding="utf-8"))["_class_name"])


def _network(kind: Any, folder: Path, dtype: torch.dtype, variant: str | None = None) -> Any:
    """A network from its folder, whole, by the variant of the weights that is asked for, where it is there.

    The precision is always given: without it a folder of float16 becomes a mixture.
    """
    found = variant_of((path.name for path in folder.iterdir()), variant)
    options = {"use_safetensors": True, "variant": found, "local_files_only": True}
    with _in_one_line(folder):
        network, found = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    check_whole(found, f"{folder} cannot be loaded: it lacks weights")
    return network


@contextmanager
def _in_one_line(folder: Path) -> Iterator[None]:
    """Raise SegueError if a folder cannot be loaded; the loaders raise whatever they like for a damaged one."""
    try:
        yield
    except Exception as error:
        raise SegueError(f"{folder} cannot be loaded: {one_line(error)}") from error
