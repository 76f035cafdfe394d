"""The families of models that films can be made with: one table, which loading and wrapping ask.

A family's own code is imported when a pipe of it is met.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from segue.errors import SegueError

if TYPE_CHECKING:  # a name is refused before torch is imported
    from segue.models.backbone import Backbone

__all__ = ["FAMILIES", "Family", "backbone_of", "family_named", "family_of"]


@dataclass(frozen=True)
class Family:
    """A family of models, by the names that diffusers gives to its parts.

    Attributes:
        name: what people call it.
        backbone: the module and the class that wrap its pipes.
        pipe: its pipeline for text to image.
        controlled: the same with a ControlNet.
        others: pipelines that its checkpoints may be saved as, too.
        network: what denoises.
        encoders: text encoders, each with its tokenizer.
    """

    name: str
    backbone: str
    pipe: str
    controlled: str
    others: tuple[str, ...]
    network: str
    encoders: Mapping[str, str]

    @property
    def pipes(self) -> tuple[str, ...]:
        """All pipelines of the family."""
        return (self.pipe, self.controlled, *self.others)

    @property
    def networks(self) -> tuple[str, ...]:
        """The parts that have weights."""
        return (self.network, "vae", *self.encoders)


FAMILIES = (
    Family(
        "Stable Diffusion 1.x and 2.x",
        "segue.models.stable_diffusion.StableDiffusion",
        "StableDiffusionPipeline",
        "StableDiffusionControlNetPipeline",
        ("StableDiffusionImg2ImgPipeline", "StableDiffusionControlNetImg2ImgPipeline"),
        "unet",
        {"text_encoder": "tokenizer"},
    ),
    Family(
        "Stable Diffusion XL",
        "segue.models.stable_diffusion_xl.StableDiffusionXL",
        "StableDiffusionXLPipeline",
        "StableDiffusionXLControlNetPipeline",
        ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLControlNetImg2ImgPipeline"),
        "unet",
        {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    ),
    Family(
        "Stable Diffusion 3",
        "segue.models.stable_diffusion_3.StableDiffusion3",
        "StableDiffusion3Pipeline",
        "StableDiffusion3ControlNetPipeline",
        ("StableDiffusion3Img2ImgPipeline",),
        "transformer",
        {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3"},
    ),
    Family(
        "FLUX.1",
        "segue.models.flux.Flux",
        "FluxPipeline",
        "FluxControlNetPipeline",
        ("FluxImg2ImgPipeline",),
        "transformer",
        {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    ),
    Family(
        "Qwen-Image",
        "segue.models.qwen_image.QwenImage",
        "QwenImagePipeline",
        "QwenImageControlNetPipeline",
        ("QwenImageImg2ImgPipeline",),
        "transformer",
        {"text_encoder": "tokenizer"},
    ),
    Family(
        "Z-Image",
        "segue.models.z_image.ZImage",
        "ZImagePipeline",
        "ZImageControlNetPipeline",
        ("ZImageImg2ImgPipeline",),
        "transformer",
        {"text_encoder": "tokenizer"},
    ),
    Family(
        "Sana",
        "segue.models.sana.Sana",
        "SanaPipeline",
        "SanaControlNetPipeline",
        (),
        "transformer",
        {"text_encoder": "tokenizer"},
    ),
)


def family_named(pipe: str) -> Family | None:
    """The family of a pipeline's class, or None."""
    return next((family for family in FAMILIES if pipe in family.pipes), None)


def family_of(pipe: Any) -> Family:
    """The family of a pipe.

    Raises:
        SegueError: films cannot be made with it.
    """
    found = (family_named(kind.__name__) for kind in type(pipe).__mro__)
    if (family := next(filter(None, found), None)) is None:
        names = ", ".join(family.name for family in FAMILIES)
        raise SegueError(f"a {type(pipe).__name__} is not a pipe for text to image that segue knows; it takes {names}")
    return family


def backbone_of(pipe: Any, controlnet: Any = None, clip_skip: int = 0) -> "Backbone":
    """Wrap a pipe of diffusers as a backbone of its family.

    Args:
        pipe: a loaded pipe, for text to image or image to image, with or without ControlNet.
        controlnet: one ControlNet or several, in place of the pipe's own.
        clip_skip: how many of the text encoders' last layers are left out.

    Raises:
        SegueError: the pipe is of no family that films can be made with, or something does not fit it.
    """
    module, _, name = family_of(pipe).backbone.rpartition(".")
    backbone: Backbone = getattr(import_module(module), name)(pipe, controlnet, clip_skip)
    return backbone
