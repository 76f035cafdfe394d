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
    """Every tensor of a network, bit for bit."""
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.device.type != "meta":  # what is offloaded to disk has no bytes at hand
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _adapters(pipe: Any) -> list[Any]:
    """The adapters that act, with the scale of each layer they act on."""
    names = getattr(pipe, "get_active_adapters", list)
    try:
        active = sorted(names())
    except ValueError:  # diffusers without peft has no adapters
        return []
    scales: dict[str, Any] = {}
    for name, module in getattr(pipe, "unet", nn.Module()).named_modules():
        if active and isinstance(scaling := getattr(module, "scaling", None), dict):
            scales[name] = {adapter: float(scaling[adapter]) for adapter in active if adapter in scaling}
    return [active, scales]
