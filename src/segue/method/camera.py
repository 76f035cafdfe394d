"""What a moving camera sees of pictures and latents (``segue.method.motion`` says how it moves).

A parent is moved as its picture x (a keyframe's own pixels, else x = D(z)), by the map W:

    z' = E(W(x)) + W(z - E(x))

The second term is what the autoencoder would lose of a parent that was made; so a camera that stands still changes
nothing, and what is lost does not add up from level to level.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segue.method.motion import Matrix, Motion
from segue.method.tree import FrameKey

__all__ = ["view_parents", "warp"]


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


def view_parents(motion: Motion, key: FrameKey, parents: Sequence[tuple[FrameKey, Tensor]]) -> list[Tensor]:
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
