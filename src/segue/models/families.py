"""The families of models that films can be made with, and which of them a pipe belongs to."""

from typing import Any

from segue.errors import SegueError
from segue.models.stable_diffusion import StableDiffusion
from segue.models.stable_diffusion_xl import StableDiffusionXL
from segue.models.unet import UNetBackbone

__all__ = ["FAMILIES", "backbone_of"]

FAMILIES: tuple[type[UNetBackbone], ...] = (StableDiffusion, StableDiffusionXL)


def backbone_of(pipe: Any, controlnet: Any = None, clip_skip: int = 0) -> UNetBackbone:
    """Wrap a pipe of diffusers as a backbone of its family.

    Args:
        pipe: a loaded pipe, for text to image or image to image, with or without ControlNet.
        controlnet: one ControlNet or several, in place of the pipe's own.
        clip_skip: how many of the text encoders' last layers are left out.

    Raises:
        SegueError: the pipe is of no family that films can be made with, or something does not fit it.
    """
    for family in FAMILIES:
        if isinstance(pipe, family.PIPES):
            return family(pipe, controlnet, clip_skip)
    names = "Stable Diffusion 1.x, 2.x or XL"
    raise SegueError(f"a {type(pipe).__name__} is not a pipe for text to image of {names}, which segue works with")
