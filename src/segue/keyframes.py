"""The keyframes of a film: the images as it shows them, their latents, and how a moving camera sees them."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from segue.backbone import Backbone
from segue.errors import SegueError, warn
from segue.motion import PixelSpace, goes_beyond, seen, shown
from segue.pictures import Source, common_size, fit, load, to_tensor
from segue.plan import motion_of
from segue.run import RunFolder
from segue.schemes import Seen
from segue.settings import MorphSettings
from segue.tree import FrameKey

__all__ = ["camera", "encoded", "fitted", "image_of", "loaded"]


def loaded(images: Sequence[Source], settings: MorphSettings) -> list[Image.Image]:
    """The images as they were given.

    Raises:
        SegueError: there are fewer than two images, or one of them cannot be read.
    """
    if len(images) < 2:
        raise SegueError(f"a film needs two images or more, not {len(images)}")
    return [load(image, background=settings.background) for image in images]


def fitted(pictures: Sequence[Image.Image], settings: MorphSettings, backbone: Backbone) -> list[Image.Image]:
    """The images as the film shows them: fitted to one size, seen through the moving camera."""
    # Of the area that the checkpoint was made for, unless a size is asked for.
    longest = round(backbone.native_size * (max(pictures[0].size) / min(pictures[0].size)) ** 0.5)
    size = common_size(pictures, backbone.multiple_of, settings.width, settings.height, longest)
    of_one_size = [fit(picture, size, settings.fit, settings.background) for picture in pictures]
    if not settings.moves:
        return of_one_size
    motion = motion_of(settings)
    beyond = [str(i) for i in range(len(pictures)) if goes_beyond(motion, Fraction(i), size[0] / size[1])]
    if beyond:
        named = f"the keyframe{'s' if len(beyond) > 1 else ''} at {', '.join(beyond)}"
        text = f"the camera sees beyond the edges of {named}; what is there is their picture mirrored"
        warn(text)
    return [shown(motion, Fraction(i), picture) for i, picture in enumerate(of_one_size)]


def encoded(
    backbone: Backbone, run: RunFolder, keyframes: Mapping[FrameKey, Image.Image], digests: Sequence[str]
) -> dict[FrameKey, Tensor]:
    """The clean latents (C, h, w) of the keyframes, one network call each, kept in the run.

    Args:
        backbone: encodes them.
        run: the run folder, open.
        keyframes: the keyframes as the film shows them.
        digests: of their pixels, in the same order; a latent is kept under its keyframe's.

    Raises:
        SegueError: the model has no numbers for a keyframe.
    """
    latents: dict[FrameKey, Tensor] = {}
    for (key, picture), pixels in zip(keyframes.items(), digests, strict=True):
        recipe = f"{key.name}-{pixels[:12]}"
        if run.latent(recipe) is None:
            with backbone.evaluating():
                z = backbone.encode(to_tensor([picture]))[0]
            if not torch.isfinite(z).all():
                raise SegueError(
                    f"the keyframe at {key.pair}: the model gave no numbers (NaN) for it; "
                    "load it with dtype float32 (or bfloat16)"
                )
            run.save_latents({recipe: z})
        latent = run.latent(recipe)
        assert latent is not None
        latents[key] = latent
    return latents


def camera(settings: MorphSettings, keyframes: Mapping[FrameKey, Image.Image], backbone: Backbone) -> Seen:
    """How the moving camera sees the parents of a frame."""
    if settings.motion_space == "latent":
        return partial(seen, motion_of(settings))
    images = {key: image_of(keyframes, key) for key in keyframes}
    return PixelSpace(motion_of(settings), images, backbone.encode, partial(backbone.decode, screened=False))


def image_of(keyframes: Mapping[FrameKey, Image.Image], key: FrameKey) -> Tensor:
    """A keyframe's image (3, H, W) in [-1, 1]; the one that closes a loop is the first."""
    return to_tensor([keyframes[FrameKey(key.pair % len(keyframes))]])[0]
