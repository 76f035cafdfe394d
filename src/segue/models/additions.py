"""What people add to a checkpoint: another VAE, LoRAs (Hu et al. 2021, arXiv 2106.09685), learnt tokens.

``segue.models.header`` has looked at the files before; here they are loaded into a diffusers pipeline. A learnt token
(textual inversion, Gal et al. 2022, arXiv 2208.01618) has the name of its file.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from diffusers.utils import is_peft_available
from safetensors import safe_open

from segue.errors import SegueError, one_line, warn
from segue.models.header import VAES, adapter_names

__all__ = ["add_embeddings", "add_loras", "replace_vae"]

ENCODERS = ("text_encoder", "text_encoder_2")
XL_KEYS = ("clip_l", "clip_g")  # an embedding's vectors for each of them


def replace_vae(pipe: Any, path: Path) -> None:
    """Give a pipe another VAE.

    Args:
        pipe: the pipe.
        path: a folder in diffusers layout, or a .safetensors file in the layout of diffusers or of the original
            releases; a file's VAE has the configuration of the pipe's own, and so its scaling factor.

    Raises:
        SegueError: it cannot be loaded, or its latents are not the pipe's.
    """
    own = pipe.vae
    with _in_one_line(f"{path} cannot be loaded as the model's VAE"):
        vae = _read_vae(path, own) if path.is_file() else _load_vae(path, own.dtype)
    if (vae.config.latent_channels, _levels(vae)) != (own.config.latent_channels, _levels(own)):
        here, there = (
            f"{v.config.latent_channels} channels at 1/{2 ** (_levels(v) - 1)} of the size" for v in (vae, own)
        )
        raise SegueError(f"{path} has latents of {here}, the model of {there}: it is a VAE for other models")
    pipe.register_modules(vae=vae.eval())


def add_loras(pipe: Any, loras: Sequence[tuple[Path, float]]) -> None:
    """Add LoRAs to a pipe, each a file and its weight; they act together, under the names of their files.

    Raises:
        SegueError: peft is not installed, or a file is of another family.

    Warns:
        Notice: a part of a LoRA is left out.
    """
    if not is_peft_available():
        raise SegueError("a LoRA needs peft: pip install 'segue[lora]'")
    names = adapter_names([path for path, _ in loras])
    for name, (path, _) in zip(names, loras, strict=True):
        with _in_one_line(f"{path} is not a LoRA for this model"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # peft's, of the second LoRA
            _add_lora(pipe, path, name)
    pipe.set_adapters(names, [weight for _, weight in loras])


def add_embeddings(pipe: Any, paths: Sequence[Path]) -> None:
    """Teach a pipe's text encoders tokens, one by each file, which prompts use by the file's name in small letters.

    Raises:
        SegueError: a file is of another family, or the tokenizer knows its name already.
    """
    for path in paths:
        with _in_one_line(f"{path} cannot be used as an embedding"):
            _add_embedding(pipe, path)


def _levels(vae: Any) -> int:
    """How many sizes a VAE works at; from each to the next, one side is halved."""
    return len(vae.config.block_out_channels)


def _load_vae(folder: Path, dtype: torch.dtype) -> AutoencoderKL:
    """The VAE of a folder, by its own configuration."""
    return AutoencoderKL.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)


def _read_vae(path: Path, own: Any) -> AutoencoderKL:
    """The VAE of a file, by the configuration of another one."""
    with safe_open(path, framework="pt") as file:
        keys = list(file.keys())
        start = next((start for start in VAES if any(key.startswith(start) for key in keys)), "")
        weights = {key.removeprefix(start): file.get_tensor(key) for key in keys if key.startswith(start)}
    if "encoder.down.0.block.0.conv1.weight" in weights:
        weights = convert_ldm_vae_checkpoint(weights, own.config)
    with torch.random.fork_rng(devices=[]):  # from which weights are drawn before they are set
        vae = AutoencoderKL.from_config(own.config)
    vae._fix_state_dict_keys_on_load(weights)  # of older versions of diffusers
    vae.load_state_dict(weights)
    return vae.to(own.dtype)


def _add_lora(pipe: Any, path: Path, name: str) -> None:
    """Load a LoRA; the part of the text encoders where the installed versions of transformers and peft take it."""
    if getattr(pipe, "unet", None) is None:
        pipe.load_lora_weights(
            str(path.parent), weight_name=path.name, use_safetensors=True, local_files_only=True, adapter_name=name
        )
        if not any(f".{name}." in key for key, _ in pipe.transformer.named_parameters()):
            raise SegueError(f"{path} is not a LoRA for this model: it fits none of its layers")
        return
    tensors, alphas, metadata = pipe.lora_state_dict(
        str(path.parent),
        weight_name=path.name,
        use_safetensors=True,
        local_files_only=True,
        unet_config=pipe.unet.config,
        return_lora_metadata=True,
    )
    options: dict[str, Any] = {"network_alphas": alphas, "metadata": metadata, "adapter_name": name}
    options |= {"low_cpu_mem_usage": True, "_pipeline": pipe}
    pipe.load_lora_into_unet(tensors, unet=pipe.unet, **options)
    given = sum(key.startswith("unet.") for key in tensors)
    loaded = sum(f".{name}." in key for key, _ in pipe.unet.named_parameters())
    if not loaded:
        raise SegueError(f"{path} is not a LoRA for this model: it fits none of its layers")
    if loaded < given:
        warn(f"{path}: {given - loaded} of {given} weights for the UNet fit none of its layers and are left out")
    for part in ENCODERS:
        if (encoder := getattr(pipe, part, None)) is not None and any(key.startswith(f"{part}.") for key in tensors):
            try:
                pipe.load_lora_into_text_encoder(tensors, text_encoder=encoder, prefix=part, **options)
            except (ImportError, ValueError) as error:  # of versions that do not go together
                warn(f"{path}: what it has for the text encoder is left out ({one_line(error)})")


def _add_embedding(pipe: Any, path: Path) -> None:
    """Teach the text encoders one token."""
    with safe_open(path, framework="pt") as file:
        vectors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    parts = [part for part in ENCODERS if getattr(pipe, part, None) is not None]
    if len(parts) != len(vectors):
        of = "Stable Diffusion XL" if len(vectors) > 1 else "a model with one text encoder"
        raise SegueError(f"{path} is an embedding for {of}, which this model is not")
    token = path.stem.lower()
    for part, vector in zip(parts, [vectors.get(key, next(iter(vectors.values()))) for key in XL_KEYS], strict=False):
        encoder, tokenizer = getattr(pipe, part), getattr(pipe, part.replace("text_encoder", "tokenizer"))
        width = encoder.get_input_embeddings().embedding_dim
        if vector.shape[-1] != width:
            raise SegueError(f"{path} has vectors of {vector.shape[-1]} numbers, this model's {part} of {width}")
        if token in tokenizer.get_vocab():
            raise SegueError(f"{path}: '{token}' is a token already; rename the file to what prompts are to call it")
        with torch.random.fork_rng(devices=[]):  # from which new rows are drawn before they are set
            pipe.load_textual_inversion(vector, token=token, tokenizer=tokenizer, text_encoder=encoder)


@contextmanager
def _in_one_line(fault: str) -> Iterator[None]:
    """Raise SegueError, which begins with a fault, for whatever goes wrong; the libraries raise many kinds."""
    try:
        yield
    except SegueError:
        raise
    except Exception as error:
        raise SegueError(f"{fault}: {one_line(error)}") from error
