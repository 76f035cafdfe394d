"""Forward diffusion: a clean latent gets noise, and a noisy one more of it.

With eps ~ N(0, I), from a clean latent and on from a noisy one (t < t'),

    z_t  = alpha_t z_0 + sigma_t eps
    z_t' = a z_t + b eps,   a = alpha_t' / alpha_t,   b = sqrt(sigma_t'^2 - a^2 sigma_t^2)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CLEAN", "NoisePoint", "Points", "diffuse", "per_sample"]


@dataclass(frozen=True)
class NoisePoint:
    """A point of the diffusion schedule: z_t = alpha z_0 + sigma eps."""

    timestep: float  # the network's own time; -1 for clean
    alpha: float
    sigma: float


CLEAN = NoisePoint(-1, 1.0, 0.0)
Points = NoisePoint | Sequence[NoisePoint]  # one for the whole batch, or one for each sample


def diffuse(z: Tensor, eps: Tensor, to: Points, start: NoisePoint = CLEAN) -> Tensor:
    """Diffuse latents from one noise point on to a noisier one.

    Args:
        z: latents at start, (B, C, h, w).
        eps: standard normal noise, of z's shape or one that broadcasts to it (parents that share their noise).
        to: the noise point to reach, one for all samples or one each.
        start: the noise point of z.

    Raises:
        ValueError: start is noisier than the point to reach.
    """
    ends = [to] if isinstance(to, NoisePoint) else list(to)
    a = [end.alpha / start.alpha for end in ends]
    variances = [end.sigma**2 - (k * start.sigma) ** 2 for k, end in zip(a, ends, strict=True)]
    if min(variances) < -1e-9:
        raise ValueError("diffuse goes from a cleaner noise point to a noisier one")
    b = [math.sqrt(max(variance, 0.0)) for variance in variances]
    return per_sample(a, z) * z + per_sample(b, z) * eps


def per_sample(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers, one for each sample or one for all, as a tensor (B or 1, 1, ...) of like's dtype and device."""
    return torch.tensor(values, dtype=torch.float64).to(like).reshape(-1, *(1,) * (like.ndim - 1))
