"""What a run recognises a model by: a digest of its weights, its adapters and its scheduler."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Fingerprint", "fingerprint"]

NETWORKS = ("unet", "vae", "text_encoder")


class Fingerprint:
    """The fingerprint of one pipe, remembered as long as its weights, adapters and scheduler are the same.

    Weights are the same while the bits of each tensor have the same sum, which is found where the tensor lies, for a
    tenth of the cost of a digest.
    """

    def __init__(self) -> None:
        self._state: object = None
        self._found = ""

    def __call__(self, pipe: Any, controlnets: Iterable[nn.Module] = ()) -> str:
        """What ``fingerprint`` gives."""
        parts = [_tensors(network) for network in _networks(pipe, controlnets)]
        sums = [{name: (w.shape, w.dtype, _sum(w)) for name, w in tensors.items()} for tensors in parts]
        state = (sums, _settings(pipe))
        if state != self._state:
            self._state, self._found = state, fingerprint(pipe, controlnets)
        return self._found


def fingerprint(pipe: Any, controlnets: Iterable[nn.Module] = ()) -> str:
    """A SHA-256 over the names, shapes and bytes of all weights, the active adapters and the scheduler's settings."""
    digest = hashlib.sha256()
    for network in _networks(pipe, controlnets):
        digest.update(type(network).__name__.encode())
        _weights(network, digest)
    digest.update(_settings(pipe))
    return digest.hexdigest()


def _networks(pipe: Any, controlnets: Iterable[nn.Module]) -> list[nn.Module]:
    """The networks whose weights determine the images."""
    parts = [*(getattr(pipe, name, None) for name in NETWORKS), *controlnets]
    return [getattr(part, "_orig_mod", part) for part in parts if isinstance(part, nn.Module)]  # as before compiling


def _settings(pipe: Any) -> bytes:
    """The active adapters, FreeU and the scheduler's settings."""
    scheduler = {name: value for name, value in dict(pipe.scheduler.config).items() if not name.startswith("_")}
    described = json.dumps([type(pipe.scheduler).__name__, scheduler], sort_keys=True, default=repr)
    return (json.dumps(_adapters(pipe)) + described + _freeu(pipe)).encode()


def _freeu(pipe: Any) -> str:
    """The factors of FreeU (Si et al. 2023, arXiv 2309.11497) in the UNet, where it is on; else nothing."""
    blocks = getattr(pipe.unet, "up_blocks", ())
    found = [[getattr(block, name, None) for name in ("s1", "s2", "b1", "b2")] for block in blocks]
    return json.dumps(found) if any(all(factors) for factors in found) else ""


def _weights(network: nn.Module, digest: Any) -> None:
    """Every tensor of a network, bit for bit, wherever offloading keeps it."""
    for name, tensor in sorted(_tensors(network).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _sum(tensor: Tensor) -> int:
    """The sum of a tensor's bits, taken eight bytes at a time in the order in which they lie."""
    tensor = tensor.detach()
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    octets = tensor.contiguous().flatten().view(torch.uint8)
    if octets.storage_offset() % 8:  # a part of a larger tensor, which cannot be read by eights from there
        octets = octets.clone()
    whole = len(octets) // 8 * 8
    return int(octets[:whole].view(torch.int64).sum() + octets[whole:].sum())


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
    for part in ("unet", "text_encoder") if active else ():
        for name, module in getattr(pipe, part, nn.Module()).named_modules():
            if isinstance(scaling := getattr(module, "scaling", None), dict):
                on = getattr(module, "disable_adapters", False) is not True
                scales[f"{part}.{name}"] = {a: float(scaling[a]) * on for a in active if a in scaling}
    return [active, scales]
