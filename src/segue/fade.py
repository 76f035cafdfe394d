"""No jump at a keyframe: what the autoencoder loses of it fades out over the frames next to it.

Frames come out of the decoder, keyframes do not. The loss r_k = x_k - D(E(x_k)) of each keyframe is added to the
frames around it, with a weight that falls from 1 at the keyframe to 0 at ``reach``, as a share of the gap:

    x_s = D(z_s) + w(|s - k| / reach) r_k,   w(u) = (1 + cos(pi u)) / 2 for u < 1, else 0
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.tree import FrameKey

__all__ = ["Fade"]


@dataclass(frozen=True)
class Fade:
    """The losses of the keyframes, and how far they reach.

    Attributes:
        residuals: x_k - D(E(x_k)) of each keyframe of the film, (3, H, W), in the units of the images.
        reach: the share of the gap over which a loss fades out.
    """

    residuals: Mapping[FrameKey, Tensor]
    reach: float

    def __call__(self, key: FrameKey, image: Tensor) -> Tensor:
        """The frame's decoded image (3, H, W) in [-1, 1] with the losses of its keyframes, clamped."""
        left, right = FrameKey(key.pair), FrameKey(key.pair + 1)
        for keyframe in (left, right):
            distance = abs(float(key.place - keyframe.place))
            if distance < self.reach:
                image = image + (1 + math.cos(math.pi * distance / self.reach)) / 2 * self.residuals[keyframe]
        return torch.clamp(image, -1, 1)
