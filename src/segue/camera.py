"""What a moving camera sees of pictures and latents (``segue.motion`` says how it moves).

The map W is applied to the parent's latent, or to its picture x (a keyframe's own pixels, else x = D(z)):

    latent space   z' = W(z)
    pixel space    z' = E(W(x)) + W(z - E(x))

The second term in pixel space is what a way through the autoencoder would lose of a parent that was made; so a camera
that stands still changes nothing, and the loss does not add up from level to level.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from segue.motion import Matrix, Motion
from segue.tensors import to_images, to_tensor
from segue.tree import FrameKey

__all__ = ["PixelSpace", "seen", "shown", "warp"]


def warp(image: Tensor, matrix: Matrix) -> tuple[Tensor, Tensor]:
    """What a moved camera sees of a picture or latent.

    Args:
        image: (C, h, w).
        matrix: the map from the new picture's coordinates to the old one's, 3 x 3.

    Returns:
        The new picture (C, h, w), bicubic, mirrored at the borders; and where it is seen, 1, or made up, 0: (1, h, w).
    """
    theta = torch.from_numpy(np.ascontiguousarray(matrix[:2])).to(image)[None]
    grid = F.affine_grid(theta, [1, 1, *image.shape[1:]], align_corners=False)
    inside = (grid.abs() <= 1).all(-1).to(image)
    warped = F.grid_sample(image[None], grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return warped[0], inside


def shown(motion: Motion, place: Fraction, picture: Image.Image) -> Image.Image:
    """A picture as the camera at a place shows it; the very picture where the camera did not move."""
    camera = motion.camera(place, picture.width / picture.height)
    if np.array_equal(camera, np.eye(3)):
        return picture
    return to_images(warp(to_tensor([picture])[0], camera)[0].clamp(-1, 1)[None])[0]


def seen(motion: Motion, key: FrameKey, parents: Sequence[tuple[FrameKey, Tensor]]) -> list[Tensor]:
    """The parents' latents (or pictures), (C, h, w), as the camera at a frame sees them.

    What one does not show is filled from the other.
    """
    aspect = parents[0][1].shape[2] / parents[0][1].shape[1]
    (left, mask_left), (right, mask_right) = (
        warp(latent, motion.between(key.place, parent.place, aspect)) for parent, latent in parents
    )
    filled_left = torch.where((mask_left == 0) & (mask_right == 1), right, left)
    filled_right = torch.where((mask_right == 0) & (mask_left == 1), left, right)
    return [filled_left, filled_right]


@dataclass(frozen=True)
class PixelSpace:
    """Parents that are moved in pixel space.

    Attributes:
        motion: how the camera moves.
        keyframes: the keyframes' images (3, H, W) in [-1, 1], as the film shows them.
        encode: images (B, 3, H, W) to latents (B, C, h, w).
        decode: latents to images.
    """

    motion: Motion
    keyframes: Mapping[FrameKey, Tensor]
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    known: dict[FrameKey, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, key: FrameKey, parents: Sequence[tuple[FrameKey, Tensor]]) -> list[Tensor]:
        """The parents' latents (C, h, w) as the camera at a frame sees them; one at a time through the networks."""
        drawn = [(parent, *self._drawn(parent, latent)) for parent, latent in parents]
        pictures = seen(self.motion, key, [(parent, picture) for parent, picture, _ in drawn])
        losses = seen(self.motion, key, [(parent, loss) for parent, _, loss in drawn])
        return [
            self.encode(picture[None].clamp(-1, 1))[0] + loss for picture, loss in zip(pictures, losses, strict=True)
        ]

    def _drawn(self, parent: FrameKey, latent: Tensor) -> tuple[Tensor, Tensor]:
        """A parent's picture, and what its latent has beyond that; the last two parents are remembered."""
        if parent not in self.known:
            if len(self.known) > 1:
                self.known.pop(next(iter(self.known)))
            picture = self.keyframes[parent] if parent.is_keyframe else self.decode(latent[None])[0]
            self.known[parent] = picture, latent - self.encode(picture[None])[0]
        return self.known[parent]
