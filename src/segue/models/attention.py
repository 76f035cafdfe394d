"""Attention interpolation: a frame also attends to its parents, which are denoised beside it.

He et al., "AID: Attention Interpolation of Text-to-Image Diffusion", 2024, arXiv 2403.17924. With Q, K, V of a frame at
t between its parents, K_1, V_1 of the left parent and K_m, V_m of the right one, in the same layer and step:

    inner   Attn(Q, [K, (1 - c) K_1 + c K_m], [V, (1 - c) V_1 + c V_m])
    outer   (1 - c) Attn(Q, [K, K_1], [V, V_1]) + c Attn(Q, [K, K_m], [V, V_m])
    c       F^-1(t), the quantile of the distribution Beta(n, n), with n the number of denoising steps

Here it acts in the self-attention of each transformer, and on the keys of image prompts; prompts are blended as in all
films. The paper also searches the parameters of the distribution for each pair, beginning at n.

Keys and values are linear in what they are made from, and a layer's output is affine in the attention. So a layer's own
processor does all of it: it is given what the parents attend to beside what the frame does, and either this is blended
before (inner), or its outputs are blended after (outer).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers.models.attention_processor import FusedAttnProcessor2_0
from torch import Tensor

from segue.errors import SegueError

__all__ = ["InterpolatedAttention", "beta_quantile", "check_processors", "interpolate_attention"]


def interpolate_attention(unet: Any, kind: str, weights: Sequence[float], steps: int) -> Mapping[str, Any]:
    """A UNet's attention processors, by name, for batches that end with B left parents, B right ones and B frames.

    Args:
        unet: the UNet.
        kind: inner or outer.
        weights: t of each frame, the weight of its right parent.
        steps: the number of denoising steps.
    """
    c = torch.tensor([beta_quantile(t, steps) for t in weights])
    return {
        name: InterpolatedAttention(own, c, kind == "outer") if _is_interpolated(name, own) else own
        for name, own in unet.attn_processors.items()
    }


def check_processors(unet: Any) -> None:
    """Raise SegueError if a UNet's own processors cannot attend to more than they are given."""
    if any(isinstance(own, FusedAttnProcessor2_0) for own in unet.attn_processors.values()):
        raise SegueError("attention interpolation needs separate keys: call unfuse_qkv_projections() on the pipe first")


def _is_interpolated(name: str, own: Any) -> bool:
    """Whether a layer is a transformer's self-attention, or attends to image prompts."""
    return name.endswith("attn1.processor") or hasattr(own, "to_k_ip")


@dataclass(frozen=True, eq=False)
class InterpolatedAttention:
    """A layer's own attention for all samples but the last B, which attend to their parents too.

    Attributes:
        own: the layer's own processor.
        coefficients: c of each of the B frames, (B,).
        is_outer: whether attention is blended, not keys and values.
    """

    own: Any
    coefficients: Tensor
    is_outer: bool

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor, list[Tensor]] | None = None,
        attention_mask: Tensor | None = None,  # noqa: ARG002
        temb: Tensor | None = None,
    ) -> Tensor:
        """The layer's output (N, L, D); ``encoder_hidden_states`` are text and image prompts, of an IP-Adapter."""
        if encoder_hidden_states is None:
            return self._attend(lambda x, rows: self.own(attn, hidden_states[rows], x, None, temb), hidden_states)
        text, (images,) = encoder_hidden_states
        return self._attend(lambda x, rows: self.own(attn, hidden_states[rows], (text[rows], [x]), None, temb), images)

    def _attend(self, attend: Callable[[Tensor, slice | list[int]], Tensor], x: Tensor) -> Tensor:
        """All samples' attention; ``attend`` is that of some samples to what keys are made from, (N, ..., L, D)."""
        total, count = len(x), len(self.coefficients)
        parents_and_others = slice(total - count)
        frames = list(range(total - count, total))
        left, right, frame = x[-3 * count :].chunk(3)
        c = self.coefficients.to(x).reshape(-1, *[1] * (x.ndim - 1))
        if self.is_outer:
            both = torch.cat([torch.cat([frame, left], -2), torch.cat([frame, right], -2)])
            to_left, to_right = attend(both, frames * 2).chunk(2)
            c = self.coefficients.to(x)[:, None, None]
            interpolated = (1 - c) * to_left + c * to_right
        else:
            interpolated = attend(torch.cat([frame, (1 - c) * left + c * right], -2), frames)
        return torch.cat([attend(x[parents_and_others], parents_and_others), interpolated])


@cache
def beta_quantile(t: float, n: int) -> float:
    """The x at which Beta(n, n) has the share t below it; 0 at 0, 1/2 at 1/2 and 1 at 1.

    For whole n that share is the probability of n successes or more in 2n - 1 trials, each of probability x.
    """
    if t in (0.0, 0.5, 1.0):
        return t
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _beta_share(middle, n) < t else (low, middle)
    return middle


def _beta_share(x: float, n: int) -> float:
    """How much of Beta(n, n) lies below x, 0 < x < 1."""
    trials = 2 * n - 1
    ways = math.lgamma(trials + 1)
    return sum(
        math.exp(
            ways
            - math.lgamma(hits + 1)
            - math.lgamma(trials - hits + 1)
            + hits * math.log(x)
            + (trials - hits) * math.log1p(-x)
        )
        for hits in range(n, trials + 1)
    )
