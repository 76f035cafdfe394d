"""No drift of colours: the low frequencies of a frame are moved towards those between its keyframes.

With L the low frequencies (means over a coarse grid, interpolated back), and s the position between keyframes x_l, x_r:

    x_s <- x_s + strength (L((1 - s) x_l + s x_r) - L(x_s))
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from segue.method.tree import FrameKey

__all__ = ["ColourMatch", "low_frequencies"]

GRID = 4  # cells along each side


@dataclass(frozen=True)
class ColourMatch:
    """The keyframes' images (3, H, W) in [-1, 1], and how strongly frames follow their colours, 0 to 1."""

    images: Mapping[FrameKey, Tensor]
    strength: float

    def __call__(self, key: FrameKey, image: Tensor) -> Tensor:
        """A frame's image (3, H, W) with its low frequencies matched, clamped to [-1, 1]."""
        if not self.strength:
            return image
        share = float(key.position)
        left, right = self.images[FrameKey(key.pair)], self.images[FrameKey(key.pair + 1)]
        wanted = low_frequencies((1 - share) * left + share * right)
        return torch.clamp(image + self.strength * (wanted - low_frequencies(image)), -1, 1)


def low_frequencies(image: Tensor) -> Tensor:
    """Means of an image (3, H, W) over a coarse grid, interpolated back to its size."""
    coarse = F.adaptive_avg_pool2d(image[None], GRID)
    return F.interpolate(coarse, size=image.shape[1:], mode="bilinear", align_corners=False)[0]
