"""DiffMorpher: the network learns both keyframes, and what makes frames is blended: LoRAs, noise, its statistics.

Zhang et al., "DiffMorpher: Unleashing the Capability of Diffusion Models for Image Morphing", CVPR 2024, arXiv
2312.07409. A LoRA is fitted to each keyframe (``engine.fitting``) and acts in its inversion; at a frame's position s
the two are blended, (1 - s) dW_0 + s dW_1 (``models.lora``). DDIM inversion takes both keyframes to the last step, here
f = 0.98, where DDIM's 50 steps begin. With x^l, x^r the noisy latents, and mean and deviation taken of each channel,

    y = slerp(x^l, x^r, s)
    x = (y - mean(y)) / std(y) * ((1 - s) std(x^l) + s std(x^r)) + (1 - s) mean(x^l) + s mean(x^r)     (AdaIN)

is denoised under the blended prompts. Positions are even, or rescheduled by perceptual spacing. The paper's third part,
self-attention in the decoder with keys and values interpolated from both keyframes' in the first 60 % of the steps, is
not here.
"""

from functools import partial

from torch import Tensor

from segue.method.blend import lerp, slerp
from segue.method.inverted import mix_inverted
from segue.method.schemes import Scheme, Task

__all__ = ["NOISE", "blend_noise", "diffmorpher"]

NOISE = 0.98  # the noise level of the last step
SMALLEST = 1e-6  # of a deviation


def diffmorpher(task: Task) -> Scheme:
    """Invert the keyframes to the last step, blend noise and statistics for each frame, and denoise."""
    return mix_inverted(task, task.point(NOISE), lambda x, y, _x_mean, _y_mean, s: blend_noise(x, y, s))


def blend_noise(left: Tensor, right: Tensor, position: float) -> Tensor:
    """The slerp of two noisy latents (C, h, w), with each channel's mean and deviation blended linearly."""
    at = partial(lerp, w=position)
    y = slerp(left[None], right[None], position)[0]
    (mean, std), (l_mean, l_std), (r_mean, r_std) = (_statistics(x) for x in (y, left, right))
    blended: Tensor = (y - mean) / std.clamp_min(SMALLEST) * at(l_std[None], r_std[None])[0]
    return blended + at(l_mean[None], r_mean[None])[0]


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the deviation of each channel, (C, 1, 1)."""
    return x.mean((1, 2), keepdim=True), x.std((1, 2), correction=0, keepdim=True)
