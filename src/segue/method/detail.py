"""Detail: what autoencoder and denoiser lose of the keyframes is given back to the frames between them.

Frames come out of the denoiser and the decoder, keyframes do not. The residual r_k of a keyframe is what it loses on
the way, and a frame at s gets both of them:

    x_s = up(D(z_s)) + w_A(s) r_A + w_B(s) r_B

where up enlarges what the network makes to the film's size. Beside a parent that corresponds (``bend``), the residual
of a keyframe, taken with the frame's noise point and noise, moves along with its geometry and reaches over all the gap:

    r_k = x_k - up(D(denoised(alpha E(x_k) + sigma eps))),   w_A = (1 - s)^p / ((1 - s)^p + s^p),   w_B = 1 - w_A

The weights sum to 1, so a film from a picture to itself is that picture. The more p, the sharper the middle and the
slower the ends: 1 blurs, at 2 the steps at the ends are a quarter smaller than the others.
Without correspondence it fades out beside its keyframe, over ``REACH`` of the gap,

    w_k = (1 + cos(pi u^2)) / 2,   u = |s - k| / REACH

and is what the autoencoder loses, x_k - D(E(x_k)), or of a frame that is blended from the keyframe itself what both
lose. A correspondence of confidence c takes c of the one weight and 1 - c of the other.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from segue.method.align import sample_picture
from segue.method.bend import Bends
from segue.method.camera import warp
from segue.method.motion import Motion
from segue.method.schemes import Latents, Level, Sample
from segue.method.tree import FrameKey

__all__ = ["REACH", "Detail", "enlarge"]

POWER = 1.5
REACH = 0.2  # of the gap
KEPT = 8  # residuals of keyframes that are remembered


@dataclass(frozen=True)
class Detail:
    """What a model loses of the keyframes, and how frames get it back.

    Attributes:
        images: the keyframes' images (3, H, W) in [-1, 1], as large as the film.
        latents: their clean latents (C, h, w).
        decode: from latents (B, C, h, w) to images.
        amount: how much of it is given back, from 0 to 1.
        motion: how the camera moves; a residual moves with its keyframe.
        bends: how geometry moves, where keyframes are aligned.
        has_seed: whether a sample's noise is drawn from a seed of its frame's own.
    """

    images: Mapping[FrameKey, Tensor]
    latents: Latents
    decode: Callable[[Tensor], Tensor]
    amount: float = 1.0
    motion: Motion = field(default_factory=Motion)
    bends: Bends | None = None
    has_seed: Callable[[Sample], bool] = lambda _sample: False
    known: dict[object, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def parts(self, level: Level, sample: Sample) -> list[Sample]:
        """A frame's sample, and those of one keyframe alone that its picture needs.

        If the gap is aligned these are the gap's, which all its frames share, and they come first. If not, each
        keyframe within reach that the frame is blended from goes the frame's own way.
        """
        if level.is_inversion:
            return [sample]
        key, sure = sample.key, self._confidence(sample.key)
        ends = FrameKey(key.pair), FrameKey(key.pair + 1)
        shared: list[Sample] = []
        beside: list[Sample] = []
        if self.amount and sure > 0 and level.is_shared:
            own = key if self.has_seed(sample) else None
            shared = [Sample(ends[0], sample.candidate, keyframe, own) for keyframe in ends]
        if self.amount and sure < 1 and level.separable:
            near = [k for k in ends if fading_weight(key, k) and k in level.parents[key]]
            beside = [Sample(key, sample.candidate, alone=keyframe) for keyframe in near]
        return [*shared, sample, *beside]

    def __call__(self, key: FrameKey, image: Tensor, alone: Mapping[Sample, Tensor]) -> Tensor:
        """A frame's image (3, H, W) in [-1, 1] with the detail of its keyframes, clamped.

        ``alone`` has the decoded images (3, h, w) of the other samples that ``parts`` named.
        """
        if not self.amount:
            return image
        sure = self._confidence(key)
        for keyframe in (FrameKey(key.pair), FrameKey(key.pair + 1)):
            if weight := sure * carried_weight(key, keyframe):
                shared = next((s for s in alone if s.key.is_keyframe and s.alone == keyframe), None)
                residual = self._carry(key, keyframe, None if shared is None else alone[shared])
                image = image + self.amount * weight * residual
            if weight := (1 - sure) * fading_weight(key, keyframe):
                own = next((s for s in alone if s.key == key and s.alone == keyframe), None)
                residual = self._residual_beside(key, keyframe, None if own is None else alone[own])
                image = image + self.amount * weight * residual
        return torch.clamp(image, -1, 1)

    def _confidence(self, key: FrameKey) -> float:
        return self.bends.confidence(key) if self.bends else 0.0

    def _carry(self, key: FrameKey, keyframe: FrameKey, alone: Tensor | None) -> Tensor:
        """A keyframe's residual (3, H, W), moved with its geometry to a frame."""
        assert self.bends
        residual = self._autoencoder_residual(keyframe) if alone is None else self._residual(keyframe, alone)
        where = self.bends.origin(key, keyframe, residual.shape[1:]).permute(1, 2, 0)[None]
        return F.grid_sample(residual[None], where, mode="bicubic", padding_mode="zeros", align_corners=False)[0]

    def _residual_beside(self, key: FrameKey, keyframe: FrameKey, alone: Tensor | None) -> Tensor:
        """A keyframe's residual beside it, (3, H, W); 0 where the moved camera sees nothing of the keyframe."""
        picture = self._autoencoder_residual(keyframe) if alone is None else self.images[keyframe]
        inside: Tensor | float = 1.0
        if self.bends:
            where = self.bends.origin(key, keyframe, picture.shape[1:])
            picture, inside = sample_picture(picture, where), (where.abs() <= 1).all(0)
        elif not self.motion.still:
            aspect = picture.shape[2] / picture.shape[1]
            picture, inside = warp(picture, self.motion.between(key.place, keyframe.place, aspect))
        return (picture if alone is None else picture - enlarge(alone, picture.shape[1:])) * inside

    def _autoencoder_residual(self, keyframe: FrameKey) -> Tensor:
        """x_k - up(D(E(x_k))), computed once."""
        if keyframe not in self.known:
            decoded = self.decode(self.latents[keyframe][None])[0]
            self._keep(keyframe, keyframe, decoded)
        return self.known[keyframe][1]

    def _residual(self, keyframe: FrameKey, alone: Tensor) -> Tensor:
        """x_k minus what the network made of it, computed once for the frames that share it."""
        name = (keyframe, alone.data_ptr())
        if name not in self.known:
            self._keep(name, keyframe, alone)
        return self.known[name][1]

    def _keep(self, name: object, keyframe: FrameKey, decoded: Tensor) -> None:
        if len(self.known) >= KEPT:
            self.known.pop(next(iter(self.known)))
        image = self.images[keyframe]
        self.known[name] = decoded, image - enlarge(decoded, image.shape[1:])  # decoded is held: its address is taken


def carried_weight(key: FrameKey, keyframe: FrameKey) -> float:
    """The weight of a keyframe's residual that moves along: its share of both keyframes' powers."""
    other = abs(float(key.place - keyframe.place))
    weights = [math.pow(share, POWER) for share in (1 - other, other)]
    return weights[0] / sum(weights)


def fading_weight(key: FrameKey, keyframe: FrameKey) -> float:
    """The weight of a keyframe's residual that fades out beside it."""
    distance = abs(float(key.place - keyframe.place))
    return (1 + math.cos(math.pi * (distance / REACH) ** 2)) / 2 if distance < REACH else 0.0


def enlarge(image: Tensor, shape: Sequence[int]) -> Tensor:
    """An image (3, h, w) on the film's pixels, bicubic; as it is where it has as many."""
    if tuple(image.shape[1:]) == tuple(shape):
        return image
    return F.interpolate(image[None], tuple(shape), mode="bicubic", align_corners=False, antialias=True)[0]
