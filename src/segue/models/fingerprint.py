"""What a run recognises a model by: its weights, adapters and scheduler, part by part, and a digest of them all."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Fingerprint", "fingerprint", "parts_of"]

NETWORKS = {"unet": "UNet", "vae": "VAE", "text_encoder": "text encoder"}
SCALING = {"scaling_factor": "scaling factor", "shift_factor": "shift factor"}  # of the VAE's latents
ADAPTERS = "LoRA adapters"


class Fingerprint:
    """The fingerprint of one pipe, remembered as long as its weights, adapters and settings are the same.

    Weights are the same while the bits of each tensor have the same sum, which is found where the tensor lies, for a
    tenth of the cost of a digest.
    """

    def __init__(self) -> None:
        self._state: object = None
        self._parts: Mapping[str, str] = {}

    def __call__(self, pipe: Any, controlnets: Iterable[nn.Module] = ()) -> str:
        """What ``fingerprint`` gives."""
        return _digest(self.parts(pipe, controlnets))

    def parts(self, pipe: Any, controlnets: Iterable[nn.Module] = ()) -> Mapping[str, str]:
        """What ``parts_of`` gives."""
        networks = [_tensors(network) for network in _networks(pipe, controlnets).values()]
        sums = [{name: (w.shape, w.dtype, _sum(w)) for name, w in tensors.items()} for tensors in networks]
        state = (sums, _settings(pipe))
        if state != self._state:
            self._state, self._parts = state, parts_of(pipe, controlnets)
        return self._parts


def fingerprint(pipe: Any, controlnets: Iterable[nn.Module] = ()) -> str:
    """A SHA-256 of all that ``parts_of`` gives."""
    return _digest(parts_of(pipe, controlnets))


def parts_of(pipe: Any, controlnets: Iterable[nn.Module] = ()) -> dict[str, str]:
    """What determines the images, by name: a SHA-256 of each network's weights, and of the adapters'; settings as text.

    Weights count with their names, shapes and bytes; adapters only while they act.
    """
    settings, adapters = _settings(pipe), hashlib.sha256()
    parts = {}
    for name, network in _networks(pipe, controlnets).items():
        digest = hashlib.sha256(type(network).__name__.encode())
        for key, tensor in sorted(_tensors(network).items()):
            _add(adapters if ".lora_" in key else digest, key.replace(".base_layer.", "."), tensor)
        parts[f"{name} weights"] = digest.hexdigest()
    if ADAPTERS in settings:
        settings[ADAPTERS] += f" {adapters.hexdigest()}"
    return parts | settings


def _digest(parts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _networks(pipe: Any, controlnets: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """The networks whose weights determine the images, by name."""
    named = {name: getattr(pipe, part, None) for part, name in NETWORKS.items()}
    named |= {f"ControlNet {i}" if i else "ControlNet": network for i, network in enumerate(controlnets)}
    return {name: getattr(part, "_orig_mod", part) for name, part in named.items() if isinstance(part, nn.Module)}


def _settings(pipe: Any) -> dict[str, str]:
    """What changes the images beside weights: adapters that act, FreeU, the VAE's scaling, the scheduler."""
    found = {}
    if adapters := _adapters(pipe):
        found[ADAPTERS] = json.dumps(adapters)
    if freeu := _freeu(pipe):
        found["FreeU"] = freeu
    for name, label in SCALING.items():
        if (value := getattr(pipe.vae.config, name, None)) is not None:
            found[f"VAE {label}"] = str(value)
    found["scheduler"] = type(pipe.scheduler).__name__
    for name, value in sorted(dict(pipe.scheduler.config).items()):
        if not name.startswith("_"):
            found[f"scheduler {name}"] = json.dumps(value, default=repr)
    return found


def _freeu(pipe: Any) -> str:
    """The factors of FreeU (Si et al. 2023, arXiv 2309.11497) in the UNet, where it is on; else nothing."""
    blocks = getattr(pipe.unet, "up_blocks", ())
    found = [[getattr(block, name, None) for name in ("s1", "s2", "b1", "b2")] for block in blocks]
    return json.dumps(found) if any(all(factors) for factors in found) else ""


def _add(digest: Any, name: str, tensor: Tensor) -> None:
    """A tensor, bit for bit, wherever offloading keeps it."""
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
    """The adapters that act, with the scale of each layer they act on; nothing without any."""
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
    return [active, scales] if active else []
