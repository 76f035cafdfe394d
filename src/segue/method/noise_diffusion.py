"""NoiseDiffusion: keyframes are encoded into noise, and the noise is corrected while it is mixed.

Zheng et al., "NoiseDiffusion: Correcting Noise for Image Interpolation with Diffusion Models beyond Spherical Linear
Interpolation", ICLR 2024, arXiv 2403.08840. DDIM inversion takes each keyframe's clean latent z to the noise point
(alpha_t, sigma_t) of the upper end of the noise range (the authors' code: step 140 of 250, f = 0.56). With x^l, x^r the
two noisy latents and s the frame's position,

    a = cos(s pi / 2),   b = sin(s pi / 2),   mu = 1.2 a / (a + b),   nu = 1.2 b / (a + b)
    x = clip(a clip(x^l) + b clip(x^r) + (mu - a) alpha_t z^l + (nu - b) alpha_t z^r),   clip to [-2, 2]

which is denoised to clean. Clipping takes from the noise what no Gaussian has; mu and nu bring back of the keyframes
what a and b, made for noise, weaken. The formula has gamma times fresh noise too, and a^2 + b^2 = 1 - gamma^2; the
authors' gamma is 0, as it is here.
"""

import math

import torch
from torch import Tensor

from segue.method.inverted import mix_inverted
from segue.method.schemes import Scheme, Task

__all__ = ["mix_noise", "noise_diffusion"]

BOUND = 2.0
STRENGTH = 1.2  # mu + nu


def noise_diffusion(task: Task) -> Scheme:
    """Invert the keyframes, mix their noisy latents for each frame, and denoise."""
    return mix_inverted(task, task.point(task.noise_range[1]), mix_noise)


def mix_noise(
    left: Tensor, right: Tensor, left_mean: Tensor, right_mean: Tensor, position: float, strength: float = STRENGTH
) -> Tensor:
    """The corrected mix of two noisy latents.

    Args:
        left: the noisy latent at position 0, of any shape.
        right: that at 1.
        left_mean: what the left one holds of the clean latent, alpha_t z.
        right_mean: what the right one holds of it.
        position: from 0 to 1.
        strength: mu + nu.

    Returns:
        a latent of their shape. At position 0 with a strength of 1 it is the left one, clipped.
    """
    a, b = math.cos(position * math.pi / 2), math.sin(position * math.pi / 2)
    mu, nu = (strength * weight / (a + b) for weight in (a, b))
    x, y = left.clamp(-BOUND, BOUND), right.clamp(-BOUND, BOUND)
    return torch.clamp(a * x + b * y + (mu - a) * left_mean + (nu - b) * right_mean, -BOUND, BOUND)
