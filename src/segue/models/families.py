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

__all__ = ["FAMILIES", "Family", "backbone_of", "check_takes_additions", "family_named", "family_of"]


@dataclass(frozen=True)
class Family:
    """A family of models, by the names that diffusers gives to its parts.

    Attributes:
        name: what people call it.
        backbone: the module of ``segue.models`` and the class that wrap its pipes.
        pipe: its pipeline for text to image.
        network: what denoises.
        encoders: text encoders, each with its tokenizer.
        controlled, controlnet: its pipeline with a ControlNet, and the class of that; "" if films are made without.
        others: pipelines that its checkpoints may be saved as, too.
    """

    name: str
    backbone: str
    pipe: str
    network: str
    encoders: Mapping[str, str]
    controlled: str = ""
    controlnet: str = ""
    others: tuple[str, ...] = ()

    @property
    def pipes(self) -> tuple[str, ...]:
        """All pipelines of the family."""
        return tuple(filter(None, (self.pipe, self.controlled, *self.others)))

    @property
    def networks(self) -> tuple[str, ...]:
        """The parts that have weights."""
        return (self.network, "vae", *self.encoders)


ONE: Mapping[str, str] = {"text_encoder": "tokenizer"}
TWO: Mapping[str, str] = {**ONE, "text_encoder_2": "tokenizer_2"}
THREE: Mapping[str, str] = {**TWO, "text_encoder_3": "tokenizer_3"}

FAMILIES = (
    Family(
        "Stable Diffusion 1.x and 2.x",
        "stable_diffusion.StableDiffusion",
        "StableDiffusionPipeline",
        "unet",
        ONE,
        "StableDiffusionControlNetPipeline",
        "ControlNetModel",
        ("StableDiffusionImg2ImgPipeline", "StableDiffusionControlNetImg2ImgPipeline"),
    ),
    Family(
        "Stable Diffusion XL",
        "stable_diffusion_xl.StableDiffusionXL",
        "StableDiffusionXLPipeline",
        "unet",
        TWO,
        "StableDiffusionXLControlNetPipeline",
        "ControlNetModel",
        ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLControlNetImg2ImgPipeline"),
    ),
    Family(
        "Stable Diffusion 3",
        "stable_diffusion_3.StableDiffusion3",
        "StableDiffusion3Pipeline",
        "transformer",
        THREE,
        "StableDiffusion3ControlNetPipeline",
        "SD3ControlNetModel",
        ("StableDiffusion3Img2ImgPipeline",),
    ),
    Family(
        "FLUX.1",
        "flux.Flux",
        "FluxPipeline",
        "transformer",
        TWO,
        "FluxControlNetPipeline",
        "FluxControlNetModel",
        ("FluxImg2ImgPipeline",),
    ),
    Family("Chroma", "chroma.Chroma", "ChromaPipeline", "transformer", ONE, others=("ChromaImg2ImgPipeline",)),
    Family("FLUX.2", "flux2.Flux2", "Flux2Pipeline", "transformer", ONE),
    Family("FLUX.2 Klein", "flux2.Flux2", "Flux2KleinPipeline", "transformer", ONE),
    Family(
        "Qwen-Image",
        "qwen_image.QwenImage",
        "QwenImagePipeline",
        "transformer",
        ONE,
        others=("QwenImageImg2ImgPipeline",),
    ),
    Family("Z-Image", "z_image.ZImage", "ZImagePipeline", "transformer", ONE, others=("ZImageImg2ImgPipeline",)),
    Family("Sana", "sana.Sana", "SanaPipeline", "transformer", ONE),
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


def check_takes_additions(family: Family) -> None:
    """Raise SegueError if what only families with a UNet take is not for a family."""
    if family.network != "unet":
        takers = " and ".join(taker.name for taker in FAMILIES if taker.network == "unet")
        settings = "vae, embedding, clip_skip, image_adapter and prediction_type"
        raise SegueError(f"{settings} are for {takers}, not for {family.name}")


def backbone_of(pipe: Any, controlnet: Any = None, clip_skip: int = 0) -> "Backbone":
    """Wrap a pipe of diffusers as a backbone of its family.

    Args:
        pipe: a loaded pipe, for text to image or image to image, with or without ControlNet.
        controlnet: one ControlNet or several, in place of the pipe's own.
        clip_skip: how many of the text encoders' last layers are left out.

    Raises:
        SegueError: the pipe is of no family that films can be made with, or something does not fit it.
    """
    family = family_of(pipe)
    if clip_skip:
        check_takes_additions(family)
    module, _, name = family.backbone.rpartition(".")
    backbone: Backbone = getattr(import_module(f"segue.models.{module}"), name)(pipe, controlnet, clip_skip)
    return backbone
