"""What a run recognises a model by: a digest of its weights, its adapters and its scheduler."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

__all__ = ["fingerprint"]

NETWORKS = ("unet", "vae", "text_encoder")


def fingerprint(pipe: Any, controlnets: Iterable[nn.Module] = ()) -> str:
    """A SHA-256 over the names, shapes and bytes of all weights, the active adapters and the scheduler's settings."""
    digest = hashlib.sha256()
    for network in [*(getattr(pipe, name, None) for name in NETWORKS), *controlnets]:
        if isinstance(network, nn.Module):
            digest.update(type(network).__name__.encode())
            _weights(network, digest)
    digest.update(json.dumps(_adapters(pipe)).encode())
    scheduler = {name: value for name, value in dict(pipe.scheduler.config).items() if not name.startswith("_")}
    digest.update(json.dumps([type(pipe.scheduler).__name__, scheduler], sort_keys=True, default=repr).encode())
    return digest.hexdigest()


def _weights(network: nn.Module, digest: Any) -> None:
    """Every tensor of a network, bit for bit, wherever offloading keeps it."""
    for name, tensor in sorted(_tensors(network).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


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
    """The adapters that act, with the scale of each layer they act on."""
    names = getattr(pipe, "get_active_adapters", list)
    try:
        active = sorted(names())
    except ValueError:  # diffusers without peft has no adapters
        return []
    scales: dict[str, Any] = {}
    for part in ("unet", "text_encoder"):
        for name, module in getattr(pipe, part, nn.Module()).named_modules():
            if active and isinstance(scaling := getattr(module, "scaling", None), dict):
                on = getattr(module, "disable_adapters", False) is not True
                scales[f"{part}.{name}"] = {a: float(scaling[a]) * on for a in active if a in scaling}
    return [active, scales]
