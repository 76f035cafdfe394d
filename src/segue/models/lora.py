"""LoRAs that are fitted to keyframes: low-rank changes of a UNet's attention, blended for each sample of a batch.

    y = W x + sum_k w_k U_k D_k x,   D_k (r, in), U_k (out, r)

for the projections to query, key, value and output of every attention, with a weight w_k of each keyframe's LoRA in
each sample: the blend of the changes, (1 - s) U_0 D_0 + s U_1 D_1 between two keyframes (Hu et al. 2021, arXiv
2106.09685, for LoRA; Zhang et al. 2023, arXiv 2312.07409, for the blend, whose released code blends U and D each by
itself instead). They are added by hooks: no weight is changed, and a batch may hold frames of several places.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["RANK", "Adaptation", "Lora", "make_lora"]

RANK = 16
PROJECTIONS = (".to_q", ".to_k", ".to_v", ".to_out.0")


@dataclass(frozen=True, eq=False)
class Lora:
    """The change of each layer, by its name in the network: ``down`` (r, in) and ``up`` (out, r), float32."""

    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]


def make_lora(network: nn.Module, generator: torch.Generator) -> Lora:
    """A LoRA that changes nothing yet: D is drawn with a deviation of 1 / r, U is 0."""
    layers = _projections(network)
    down = {name: torch.randn(RANK, int(m.in_features), generator=generator) / RANK for name, m in layers.items()}  # type: ignore[arg-type]
    up = {name: torch.zeros(int(m.out_features), RANK) for name, m in layers.items()}  # type: ignore[arg-type]
    return Lora(down, up)


class Adaptation:
    """LoRAs that act in a network, by the weights (B, N) that the next call's samples have; none by None."""

    weights: Tensor | None = None

    def __init__(self, loras: Sequence[Lora]) -> None:
        """Act by N LoRAs once it is entered."""
        self.loras = loras
        self.known: dict[str, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def acting(self, network: nn.Module) -> Iterator[None]:
        """Act in a network; then it is as it was."""
        layers = _projections(network)
        hooks = [layer.register_forward_hook(partial(self._add, name)) for name, layer in layers.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _add(self, name: str, _layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A layer's output (B, L, out), changed."""
        if self.weights is None:
            return output
        x = given[0]
        down, up = self._stacked(name, x)
        weights = self.weights.to(x).repeat_interleave(RANK, 1)[:, None]  # (B, 1, N r)
        return output + F.linear(F.linear(x, down) * weights, up)

    def _stacked(self, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """All LoRAs of a layer as one, (N r, in) and (out, N r), as the network computes."""
        if torch.is_grad_enabled():  # they are fitted
            return self._stack(name, like)
        if name not in self.known:
            self.known[name] = self._stack(name, like)
        return self.known[name]

    def _stack(self, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        down = torch.cat([lora.down[name] for lora in self.loras])
        up = torch.cat([lora.up[name] for lora in self.loras], 1)
        return down.to(like), up.to(like)


def _projections(network: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of a network's attention by name; what peft or a quantisation put in their place, too."""
    return {
        name: module
        for name, module in network.named_modules()
        if name.endswith(PROJECTIONS) and hasattr(module, "in_features")
    }
