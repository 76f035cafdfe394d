"""Pictures as the networks take them, and back."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segue.errors import SegueError

__all__ = ["to_images", "to_tensor"]


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as (B, 3, H, W) float32 in [-1, 1]."""
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])  # (B, H, W, 3)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def to_images(tensor: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] as RGB pictures, rounded and clipped; the inverse of ``to_tensor``.

    Raises:
        SegueError: the tensor holds NaN, as when a network overflows in float16.
    """
    values = tensor.detach().to("cpu", torch.float32)
    if values.isnan().any():
        raise SegueError("the model returned NaN for a picture; try dtype float32 or bfloat16")
    pixels = ((values + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return [Image.fromarray(array) for array in pixels.numpy()]
