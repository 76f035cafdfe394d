"""No jump at a keyframe: what the model loses of it fades out over the frames next to it.

Frames come out of the denoiser and the decoder, keyframes do not. The loss r_k of each keyframe is added to the frames
around it, with a weight that falls from 1 at the keyframe to 0 at ``reach``, as a share of the gap:

    x_s = D(z_s) + w(|s - k| / reach) r_k,   w(u) = (1 + cos(pi u^2)) / 2 for u < 1, else 0

What the autoencoder loses is r_k = x_k - D(E(x_k)). Most of a jump is the denoiser's, though, so a frame that is
blended from the keyframe itself gets what both lose: z_k goes the frame's own way, in place of both its parents,

    r_k = x_k - D(z),   z = denoised(alpha z_k + sigma eps) with the frame's noise, noise point and words

and the frame is the keyframe plus the difference that the other parent makes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from segue.motion import Motion, warp
from segue.schemes import Latents, Level
from segue.tree import FrameKey

__all__ = ["Fade", "Losses"]


@dataclass(frozen=True)
class Fade:
    """How far the losses of keyframes reach, and what they are.

    Attributes:
        reach: the share of the gap over which a loss fades out; 0 for no fade.
        loss: what the model loses of a keyframe on the way to a frame, (3, H, W), in the images' units; the decoded
            image of the keyframe gone that way is given where there is one.
    """

    reach: float
    loss: Callable[[FrameKey, FrameKey, Tensor | None], Tensor]

    def alone(self, level: Level, key: FrameKey) -> list[FrameKey]:
        """The keyframes that shall go a frame's way by themselves: those within reach that it is blended from."""
        return [k for k in self._reaching(key) if level.separable and k in level.parents[key]]

    def __call__(self, key: FrameKey, image: Tensor, alone: Mapping[FrameKey, Tensor]) -> Tensor:
        """A frame's decoded image (3, H, W) in [-1, 1] with the losses of its keyframes, clamped.

        ``alone`` has the decoded images (3, H, W) of the keyframes that have gone the frame's way.
        """
        for keyframe, weight in self._reaching(key).items():
            image = image + weight * self.loss(key, keyframe, alone.get(keyframe))
        return torch.clamp(image, -1, 1)

    def _reaching(self, key: FrameKey) -> dict[FrameKey, float]:
        """The keyframes whose losses reach a frame, with their weights."""
        ends = (FrameKey(key.pair), FrameKey(key.pair + 1))
        distances = {keyframe: abs(float(key.place - keyframe.place)) for keyframe in ends}
        return {
            keyframe: (1 + math.cos(math.pi * (distance / self.reach) ** 2)) / 2
            for keyframe, distance in distances.items()
            if distance < self.reach
        }


@dataclass(frozen=True)
class Losses:
    """What a model loses of the keyframes.

    Attributes:
        images: the keyframes' images (3, H, W) in [-1, 1]; latents: their clean latents (C, h, w).
        decode: from latents (B, C, h, w) to images (B, 3, H, W).
        motion: how the camera moves; a loss moves with its keyframe.
    """

    images: Mapping[FrameKey, Tensor]
    latents: Latents
    decode: Callable[[Tensor], Tensor]
    motion: Motion = field(default_factory=Motion)
    known: dict[FrameKey, Tensor] = field(default_factory=dict)

    def __call__(self, key: FrameKey, keyframe: FrameKey, alone: Tensor | None = None) -> Tensor:
        """The loss of a keyframe at a frame, (3, H, W); 0 where the moved camera sees nothing of the keyframe.

        ``alone`` is the decoded image (3, H, W) of the keyframe gone the frame's way; without it what the
        autoencoder loses is taken.
        """
        if alone is None:
            loss, inside = self._seen(key, keyframe, self._autoencoders(keyframe))
            return loss * inside
        image, inside = self._seen(key, keyframe, self.images[keyframe])
        return (image - alone) * inside

    def _autoencoders(self, keyframe: FrameKey) -> Tensor:
        """x_k - D(E(x_k)), computed once."""
        if keyframe not in self.known:
            self.known[keyframe] = self.images[keyframe] - self.decode(self.latents[keyframe][None])[0]
        return self.known[keyframe]

    def _seen(self, key: FrameKey, keyframe: FrameKey, image: Tensor) -> tuple[Tensor, Tensor | float]:
        """A keyframe's picture as the camera at a frame sees it, and where it does."""
        if self.motion.still:
            return image, 1.0
        return warp(image, self.motion.between(key.place, keyframe.place, image.shape[2] / image.shape[1]))
