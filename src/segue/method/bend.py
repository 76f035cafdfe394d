"""A camera that bends: what a picture shows, seen from another place of the film.

A point x that is seen at place s of the film came, of the left keyframe A, from

    p_A = u - b,   u = C_A^-1 C_s x,   b = b(u) the displacement that solves u = p_A + s d_A(p_A)

where C are the cameras of zoom, pan and rotation; likewise of the right keyframe with 1 - s. A frame that was made at
place l shows it where both keyframes' points have moved to by then, mixed by s:

    (1 - s) C_l^-1 C_A (p_A + l d_A(p_A)) + s C_l^-1 C_B (p_B + (1 - l) d_B(p_B))

so that the pixels of a picture are sampled once, however zoom, pan, rotation and correspondence compose.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from segue.method.align import Correspondence, grid, place_of, resize_field, sample_picture, unbend
from segue.method.motion import Motion
from segue.method.tree import FrameKey

__all__ = ["Bends", "BentPictures"]


@dataclass(frozen=True)
class Bends:
    """How geometry moves over a film.

    Attributes:
        gaps: the correspondence of each gap, by its number.
        motion: how the camera moves.
        aspect: the width of the pictures over their height.
    """

    gaps: Mapping[int, Correspondence]
    motion: Motion = field(default_factory=Motion)
    aspect: float = 1.0

    @property
    def aligned(self) -> frozenset[int]:
        """The gaps whose keyframes correspond."""
        return frozenset(number for number, gap in self.gaps.items() if gap.confidence > 0)

    def confidence(self, key: FrameKey) -> float:
        """How sure the correspondence around a frame is."""
        return self.gaps[key.pair].confidence

    def origin(self, key: FrameKey, parent: FrameKey, shape: Sequence[int]) -> Tensor:
        """Where the points that are seen at a frame lie in a parent's picture.

        Args:
            key: the frame.
            parent: a keyframe beside it, or a frame made in the same gap.
            shape: (h, w) of the points that are seen.

        Returns:
            (2, h, w) from -1 to 1 over the parent's picture.
        """
        ends = FrameKey(key.pair), FrameKey(key.pair + 1)
        if parent in ends:
            return self._points_in_keyframe(key, parent, shape)
        weights = 1 - float(key.position), float(key.position)
        ways = [self._points_by_way_of(keyframe, key, parent, shape) for keyframe in ends]
        return weights[0] * ways[0] + weights[1] * ways[1]

    def _points_in_keyframe(self, key: FrameKey, keyframe: FrameKey, shape: Sequence[int]) -> Tensor:
        """Where the points lie in a keyframe: p = u - b(u)."""
        bend = unbend(self._field(key, keyframe), _share(key, keyframe))
        if self.motion.still:
            return grid(shape) - resize_field(
                bend, shape, "bilinear"
            )  # of a smooth field: a tenth of a pixel off at most
        u = self._move(key.place, keyframe.place, grid(shape))
        return u - place_of(bend, u)

    def _points_by_way_of(self, keyframe: FrameKey, key: FrameKey, parent: FrameKey, shape: Sequence[int]) -> Tensor:
        """Where a keyframe's points, seen at a frame, are seen at a made one."""
        p = self._points_in_keyframe(key, keyframe, shape)
        there = resize_field(self._field(key, keyframe), [2 * side for side in self.gaps[key.pair].left.shape[1:]])
        moved = p + _share(parent, keyframe) * place_of(there, p)
        return moved if self.motion.still else self._move(keyframe.place, parent.place, moved)

    def _field(self, key: FrameKey, keyframe: FrameKey) -> Tensor:
        gap = self.gaps[key.pair]
        return gap.left if keyframe == FrameKey(key.pair) else gap.right

    def _move(self, place: Fraction, parent: Fraction, points: Tensor) -> Tensor:
        """Points (2, h, w) that the camera shows at a place, as it showed them at a parent's."""
        matrix = torch.from_numpy(self.motion.between(place, parent, self.aspect)).float()
        moved = matrix[:2, :2] @ points.flatten(1) + matrix[:2, 2:]
        return moved.reshape(points.shape)


@dataclass(frozen=True)
class BentPictures:
    """The parents of a frame as they are seen from it, as latents: what a scheme calls ``seen``.

    Attributes:
        bends: how geometry moves.
        keyframes: the keyframes' images (3, H, W) in [-1, 1], about twice as large as what the network works on.
        finished: the image (3, H, W) of a frame that is made, as large.
        encode: images (B, 3, h, w) to latents (B, C, h', w').
        shape: (h, w) of the images that the network encodes.
    """

    bends: Bends
    keyframes: Mapping[FrameKey, Tensor]
    finished: Callable[[FrameKey], Tensor]
    encode: Callable[[Tensor], Tensor]
    shape: tuple[int, int]

    def __call__(self, key: FrameKey, parents: Sequence[tuple[FrameKey, Tensor]]) -> list[Tensor]:
        """The parents' latents (C, h', w'), encoded one at a time."""
        if any(parent == key for parent, _ in parents):
            return [self._own_latent(key, latent) for _, latent in parents]
        if self.bends.motion.still and key.pair not in self.bends.aligned:
            return [latent for _, latent in parents]
        pictures = self._fill_in([self._carry(key, parent) for parent, _ in parents])
        return [self._encode(picture) for picture in pictures]

    def _own_latent(self, key: FrameKey, latent: Tensor) -> Tensor:
        """A frame as it is; a keyframe encoded as all that is carried, with which it is to agree to the last digit."""
        return self._encode(self.keyframes[key]) if key in self.keyframes else latent

    def _encode(self, picture: Tensor) -> Tensor:
        """The latent (C, h', w') of a picture (3, H, W)."""
        return self.encode(shrink(picture, self.shape)[None].clamp(-1, 1))[0]

    def _carry(self, key: FrameKey, parent: FrameKey) -> tuple[Tensor, Tensor]:
        """A parent's picture (3, H, W) as it is seen at a frame, and where it shows something, (H, W)."""
        picture = self.keyframes[parent] if parent in self.keyframes else self.finished(parent)
        where = self.bends.origin(key, parent, picture.shape[1:])
        return sample_picture(picture, where), (where.abs() <= 1).all(0)

    def _fill_in(self, carried: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Pictures of two parents; what a moving camera sees beyond one of them is taken from the other."""
        if self.bends.motion.still or len(carried) != 2:
            return [picture for picture, _ in carried]
        (left, in_left), (right, in_right) = carried
        return [torch.where(~in_left & in_right, right, left), torch.where(~in_right & in_left, left, right)]

    def carry_noisy(self, key: FrameKey, parent: FrameKey, latent: Tensor) -> Tensor:
        """The latent (C, h', w') of a frame on its way, carried to another; nearest cells, which keeps its noise."""
        where = self.bends.origin(key, parent, latent.shape[1:]).permute(1, 2, 0)[None]
        return F.grid_sample(latent[None], where, mode="nearest", padding_mode="border", align_corners=False)[0]


def _share(key: FrameKey, keyframe: FrameKey) -> float:
    """How much of its way a keyframe's geometry has gone at a frame."""
    return abs(float(key.place - keyframe.place))


def shrink(image: Tensor, shape: Sequence[int]) -> Tensor:
    """An image (C, H, W) on other pixels, by Lanczos: as the keyframes' latents, with which it is to agree."""
    if tuple(image.shape[1:]) == tuple(shape):
        return image
    planes = [Image.fromarray(plane).resize((shape[1], shape[0]), Image.Resampling.LANCZOS) for plane in image.numpy()]
    return torch.stack([torch.from_numpy(np.array(plane)) for plane in planes])
