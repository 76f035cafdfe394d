"""Transparency: a picture that is laid on a colour, and lifted from it again.

With colour F and alpha a in [0, 1], a picture on the colour W is C = a F + (1 - a) W. The networks see and make C;
where a is known, F = (C - (1 - a) W) / a.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

__all__ = ["Array", "Floats", "continue_colours", "ground_for", "lay_on", "lift"]

Array: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

_SEEN = 64  # of 255: the mean difference between a subject and its ground from which both are told apart
_CONTRAST = 0.02  # between 0 and 3: the squared difference at which a picture tells half of the alpha
_FAINT = 16  # of 255: below this alpha the colours of a pixel say nothing


def lay_on(picture: Image.Image, colour: str) -> Image.Image:
    """A picture with transparency as an RGB picture on a colour; another one as it is."""
    if picture.mode != "RGBA":
        return picture
    ground = Image.new("RGBA", picture.size, (*ImageColor.getrgb(colour)[:3], 255))
    return Image.alpha_composite(ground, picture).convert("RGB")


def lift(picture: Image.Image, left: Floats, right: Floats, share: float, ground: str) -> Image.Image:
    """The frame, with alpha, that looks like a picture when it is laid on the ground.

    Where both keyframes are opaque, or both transparent, so is the frame. Where one is and the other is not, the
    picture C says how much of the keyframes' colour F there is over the ground W: (W - C)(W - F) / |W - F|^2, between
    both of their alphas. The less F and W differ, the more it is the weighted mean of both.

    Args:
        picture: C, in RGB.
        left: a keyframe as it is seen at the frame, (H, W, 4) from 0 to 1, its colours multiplied by its alpha.
        right: the other one.
        share: how much of the right one is in the frame.
        ground: the colour that is taken away; it stays where nothing is seen.
    """
    below = np.array(ImageColor.getrgb(ground)[:3], np.float32) / 255
    over = np.asarray(picture).astype(np.float32) / 255
    mean = (1 - share) * left + share * right
    away = below - mean[..., :3] / np.maximum(mean[..., 3:], 1 / 255)
    contrast = np.square(away).sum(-1)
    least, most = np.minimum(left, right)[..., 3], np.maximum(left, right)[..., 3]
    told = (((below - over) * away).sum(-1) / np.maximum(contrast, 1e-6)).clip(least, most)
    alpha = (mean[..., 3] + (told - mean[..., 3]) * contrast / (contrast + _CONTRAST)).clip(0, 1)
    alpha = (np.rint(alpha * 255) / 255)[..., None]
    colours = np.where(alpha > 0, (over - (1 - alpha) * below) / np.maximum(alpha, 1 / 255), below)
    return Image.fromarray(np.rint(np.concatenate([colours.clip(0, 1), alpha], -1) * 255).astype(np.uint8))


def ground_for(pictures: Sequence[Image.Image]) -> str:
    """The colour on which pictures with transparency are seen well: white, if they are not about white themselves."""
    alphas = np.concatenate([np.asarray(picture)[..., 3].ravel() for picture in pictures]).astype(np.float64)
    colours = np.concatenate([np.asarray(picture)[..., :3].reshape(-1, 3) for picture in pictures]).astype(int)

    def contrast(ground: str) -> float:
        return float(np.average(abs(colours - ImageColor.getrgb(ground)[:3]).max(axis=-1), weights=alphas + 1e-9))

    return "white" if contrast("white") >= _SEEN else max(("gray", "black"), key=contrast)


def continue_colours(picture: Image.Image) -> Array:
    """The pixels (H, W, C), their colours continued where they are transparent: compression mixes neighbours."""
    if picture.mode != "RGBA":
        return np.asarray(picture)
    levels = [picture]
    while max(levels[-1].size) > 1:
        levels.append(levels[-1].reduce(2))
    filled = levels[-1]
    for level in levels[-2::-1]:
        filled = Image.alpha_composite(filled.resize(level.size, Image.Resampling.BILINEAR), level)
    alpha = np.asarray(picture)[..., 3:]
    colours = np.where(alpha < _FAINT, np.asarray(filled)[..., :3], np.asarray(picture)[..., :3])
    return np.concatenate([colours, alpha], axis=-1)
