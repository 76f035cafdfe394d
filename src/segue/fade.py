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
from typing import Any

import torch
from torch import Tensor

from segue.backbone import Backbone, Sampling
from segue.generate import eta_noise
from segue.motion import Motion, warp
from segue.schemes import Latents, Level, NamedNoise, Sample
from segue.tree import FrameKey

__all__ = ["Fade", "Losses"]


@dataclass(frozen=True)
class Fade:
    """How far the losses of keyframes reach, and what they are.

    Attributes:
        reach: the share of the gap over which a loss fades out; 0 for no fade.
        loss: what the model loses of a keyframe on the way to a sample of a level, (3, H, W), in the images' units.
    """

    reach: float
    loss: Callable[[Level, Sample, FrameKey], Tensor]

    def __call__(self, level: Level, sample: Sample, image: Tensor) -> Tensor:
        """The sample's decoded image (3, H, W) in [-1, 1] with the losses of its keyframes, clamped."""
        key = sample.key
        for keyframe in (FrameKey(key.pair), FrameKey(key.pair + 1)):
            distance = abs(float(key.place - keyframe.place))
            if distance < self.reach:
                weight = (1 + math.cos(math.pi * (distance / self.reach) ** 2)) / 2
                image = image + weight * self.loss(level, sample, keyframe)
        return torch.clamp(image, -1, 1)


@dataclass(frozen=True)
class Losses:
    """What a model loses of the keyframes.

    Attributes:
        backbone, sampling: the networks, and how they denoise.
        images: the keyframes' images (3, H, W) in [-1, 1]; latents: their clean latents (C, h, w).
        conditioning: the conditioning of a sample, a batch of one.
        noise: named noise, for eta.
        motion: how the camera moves; a loss moves with its keyframe.
    """

    backbone: Backbone
    sampling: Sampling
    images: Mapping[FrameKey, Tensor]
    latents: Latents
    conditioning: Callable[[Sample], Any]
    noise: NamedNoise
    motion: Motion = field(default_factory=Motion)
    known: dict[FrameKey, Tensor] = field(default_factory=dict)

    def __call__(self, level: Level, sample: Sample, keyframe: FrameKey) -> Tensor:
        """The loss of a keyframe at a sample, (3, H, W); 0 where the moved camera sees nothing of the keyframe."""
        if level.alone is None or keyframe not in level.parents[sample.key]:
            loss, inside = self._seen(sample.key, keyframe, self._autoencoders(keyframe))
            return loss * inside
        words = self.conditioning(sample)
        z = self.backbone.denoise(
            level.alone(sample, keyframe)[None],
            type(words).stack([words]),
            level.start,
            level.stop,
            sampling=self.sampling,
            noise=eta_noise(self.noise, level, [sample]),
        )
        image, inside = self._seen(sample.key, keyframe, self.images[keyframe])
        return (image - self.backbone.decode(z)[0]) * inside

    def _autoencoders(self, keyframe: FrameKey) -> Tensor:
        """x_k - D(E(x_k)), computed once."""
        if keyframe not in self.known:
            decoded = self.backbone.decode(self.latents[keyframe][None])[0]
            self.known[keyframe] = self.images[keyframe] - decoded
        return self.known[keyframe]

    def _seen(self, key: FrameKey, keyframe: FrameKey, image: Tensor) -> tuple[Tensor, Tensor | float]:
        """A keyframe's picture as the camera at a frame sees it, and where it does."""
        if self.motion.still:
            return image, 1.0
        return warp(image, self.motion.between(key.place, keyframe.place, image.shape[2] / image.shape[1]))
