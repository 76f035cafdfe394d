"""Blending of latents and of embeddings.

Spherical interpolation of two vectors a, b at weight w, with omega the angle between them:

    slerp(a, b, w) = sin((1 - w) omega) / sin(omega) a + sin(w omega) / sin(omega) b

It keeps the norm of Gaussian noise, which a linear blend shrinks (Shoemake, "Animating Rotation with Quaternion
Curves", 1985). Both blends are computed in float64, on one sample at a time: a batch only stacks the results.
"""

import torch
from torch import Tensor

__all__ = ["lerp", "slerp"]

PARALLEL = 1e-6  # below this sine of the angle, slerp is the linear blend


def slerp(a: Tensor, b: Tensor, w: float | Tensor) -> Tensor:
    """Blend each sample of a with its sample of b along the great circle.

    Args:
        a: samples at w = 0, (B, ...); the angle is taken over all dimensions but the first.
        b: samples at w = 1, of a's shape.
        w: the weight of b, one number or (B,).

    Returns:
        (B, ...) in a's dtype; exactly a at 0 and b at 1; linear where the two are (nearly) parallel or zero.
    """
    u, v, weight = _prepare(a, b, w)
    dot = (u * v).sum(1, keepdim=True)
    norms = u.norm(dim=1, keepdim=True) * v.norm(dim=1, keepdim=True)
    cosine = torch.where(norms > 0, dot / norms.clamp_min(torch.finfo(torch.float64).tiny), torch.ones_like(dot))
    omega = torch.acos(cosine.clamp(-1, 1))
    sine = torch.sin(omega)
    safe = torch.where(sine > PARALLEL, sine, torch.ones_like(sine))
    left = torch.where(sine > PARALLEL, torch.sin((1 - weight) * omega) / safe, 1 - weight)
    right = torch.where(sine > PARALLEL, torch.sin(weight * omega) / safe, weight)
    return _finish(left * u + right * v, u, v, weight, a)


def lerp(a: Tensor, b: Tensor, w: float | Tensor) -> Tensor:
    """Blend each sample of a with its sample of b along the straight line; arguments and result as of slerp."""
    u, v, weight = _prepare(a, b, w)
    return _finish((1 - weight) * u + weight * v, u, v, weight, a)


def _prepare(a: Tensor, b: Tensor, w: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Samples as rows in float64, (B, D), and the weights as (B, 1)."""
    if a.shape != b.shape:
        raise ValueError(f"the two sides of a blend differ in shape: {tuple(a.shape)} and {tuple(b.shape)}")
    weight = torch.as_tensor(w, dtype=torch.float64).expand(a.shape[0])[:, None]
    return a.flatten(1).double(), b.flatten(1).double(), weight


def _finish(blend: Tensor, u: Tensor, v: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """The ends exactly, the shape and dtype of the input."""
    blend = torch.where(weight == 0, u, torch.where(weight == 1, v, blend))
    return blend.reshape(like.shape).to(like.dtype)
