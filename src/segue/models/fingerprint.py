"""What a run recognises a model by: its weights, adapters and scheduler, part by part, and a digest of them all."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["active_adapters", "digest_of", "learnt_tokens", "parts_of"]

SCALING = {"scaling_factor": "scaling factor", "shift_factor": "shift factor"}  # of the VAE's latents
OTHER = {*SCALING, "architectures", "dtype", "torch_dtype", "transformers_version"}  # in a configuration
ADAPTERS = "LoRA adapters"
OF_PIPES = ("force_zeros_for_empty_prompt", "is_distilled")  # settings of pipes that determine the conditioning
HASHERS = 4  # tensors that are hashed at the same time


def parts_of(pipe: Any, networks: Mapping[str, nn.Module]) -> dict[str, str]:
    """What determines the images, by name: SHA-256 of networks, their settings and adapters; other settings as text.

    Weights count with their names, shapes and bytes; adapters only while they act.

    Args:
        pipe: the pipe.
        networks: those that determine the images, by name, the UNet as "UNet".
    """
    settings, adapters = _settings(pipe), hashlib.sha256()
    parts: dict[str, str] = {}
    with ThreadPoolExecutor(HASHERS) as hashers:
        for name, network in networks.items():
            network = getattr(network, "_orig_mod", network)  # of a compiled one
            tensors, digest = _tensors(network), hashlib.sha256(type(network).__name__.encode())
            for key, bits in sorted(zip(tensors, hashers.map(_bits, tensors.values()), strict=True)):
                of = adapters if ".lora_" in key else digest
                of.update(f"{key.replace('.base_layer.', '.')} {bits}".encode())
            parts |= {f"{name} weights": digest.hexdigest(), f"{name} settings": _config(network)}
    if ADAPTERS in settings:
        settings[ADAPTERS] += f" {adapters.hexdigest()}"
    return parts | settings


def digest_of(parts: Mapping[str, str]) -> str:
    """The fingerprint of a model of those parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def active_adapters(pipe: Any) -> list[str]:
    """The names of the adapters that act."""
    names = getattr(pipe, "get_active_adapters", list)
    try:
        return sorted(names())
    except ValueError:  # diffusers without peft has no adapters
        return []


def learnt_tokens(pipe: Any) -> list[str]:
    """The tokens of textual inversion, which the text encoders' weights do not name."""
    tokenizers = (getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2"))
    added = [getattr(tokenizer, "added_tokens_decoder", {}).values() for tokenizer in tokenizers]
    return sorted({str(token) for tokens in added for token in tokens if not token.special})


def _settings(pipe: Any) -> dict[str, str]:
    """What changes the images beside weights: adapters that act, tokens, FreeU, the VAE's scaling, the scheduler."""
    found = {}
    if adapters := _adapters(pipe):
        found[ADAPTERS] = json.dumps(adapters)
    if freeu := _freeu(pipe):
        found["FreeU"] = freeu
    layers = getattr(getattr(pipe, "unet", None), "attn_processors", {})
    if scales := {name: layer.scale for name, layer in layers.items() if hasattr(layer, "to_k_ip")}:
        found["IP-Adapter scales"] = json.dumps(scales)
    if tokens := learnt_tokens(pipe):
        found["learnt tokens"] = json.dumps(tokens)
    for name in OF_PIPES:
        if (value := pipe.config.get(name)) is not None:
            found[f"pipe {name}"] = str(value)
    for name, label in SCALING.items():
        if (value := getattr(pipe.vae.config, name, None)) is not None:
            found[f"VAE {label}"] = str(value)
    found["scheduler"] = type(pipe.scheduler).__name__
    for name, value in sorted(dict(pipe.scheduler.config).items()):
        if not name.startswith("_"):
            found[f"scheduler {name}"] = json.dumps(value, default=repr)
    if (shift := getattr(pipe.scheduler, "shift", None)) is not None:  # which set_shift changes apart from config
        found["scheduler shift"] = str(shift)
    return found


def _freeu(pipe: Any) -> str:
    """The factors of FreeU (Si et al. 2023, arXiv 2309.11497) in the UNet, where it is on; else nothing."""
    blocks = getattr(getattr(pipe, "unet", None), "up_blocks", ())
    found = [[getattr(block, name, None) for name in ("s1", "s2", "b1", "b2")] for block in blocks]
    return json.dumps(found) if any(all(factors) for factors in found) else ""


def _bits(tensor: Tensor) -> str:
    """A digest of a tensor's shape, type and bytes, wherever offloading keeps it; of a subclass, of what it holds."""
    tensor = tensor.detach()
    digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    if hasattr(tensor, "__tensor_flatten__"):  # quantized, for instance
        names, context = tensor.__tensor_flatten__()
        digest.update(f"{type(tensor).__name__} {context}".encode())
        digest.update("".join(f" {name} {_bits(getattr(tensor, name))}" for name in names).encode())
    else:
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _config(network: nn.Module) -> str:
    """A digest of a network's configuration, but for where it came from and what is named by itself."""
    config: Any = getattr(network, "config", {})
    values = dict(config) if isinstance(config, Mapping) else config.to_dict()
    return hashlib.sha256(json.dumps(_kept(values), sort_keys=True, default=repr).encode()).hexdigest()


def _kept(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """What of a configuration counts, in its parts' own configurations too."""
    names = [name for name in values if not str(name).startswith("_") and name not in OTHER]
    return {name: _kept(values[name]) if isinstance(values[name], Mapping) else values[name] for name in names}


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """The weights by name; those that sequential offloading took out of the network from where it keeps them."""
    tensors = dict(network.state_dict())
    if any(tensor.is_meta for tensor in tensors.values()):
        for path, module in network.named_modules():
            kept: Any = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
            for name in [*module._parameters, *module._buffers] if kept is not None else []:
                full = f"{path}.{name}" if path else name
                if full in tensors and tensors[full].is_meta:
                    tensors[full] = kept[name]
    return tensors


def _adapters(pipe: Any) -> list[Any]:
    """The adapters that act, with the scale of each layer they act on; nothing without any."""
    active = active_adapters(pipe)
    scales: dict[str, Any] = {}
    for part in ("unet", "transformer", "text_encoder", "text_encoder_2") if active else ():
        for name, module in (getattr(pipe, part, None) or nn.Module()).named_modules():
            if isinstance(scaling := getattr(module, "scaling", None), dict):
                on = getattr(module, "disable_adapters", False) is not True
                scales[f"{part}.{name}"] = {a: float(scaling[a]) * on for a in active if a in scaling}
    return [active, scales] if active else []
