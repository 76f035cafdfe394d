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
        backbone: the module and the class that wrap its pipes.
        pipe: its pipeline for text to image.
        controlled: the same with a ControlNet, or nothing.
        controlnet: the class of its ControlNets; "" if films cannot be made with them.
        others: pipelines that its checkpoints may be saved as, too.
        network: what denoises.
        encoders: text encoders, each with its tokenizer.
    """

    name: str
    backbone: str
    pipe: str
    controlled: str
    controlnet: str
    others: tuple[str, ...]
    network: str
    encoders: Mapping[str, str]

    @property
    def pipes(self) -> tuple[str, ...]:
        """All pipelines of the family."""
        return tuple(filter(None, (self.pipe, self.controlled, *self.others)))

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
        "ControlNetModel",
        ("StableDiffusionImg2ImgPipeline", "StableDiffusionControlNetImg2ImgPipeline"),
        "unet",
        {"text_encoder": "tokenizer"},
    ),
    Family(
        "Stable Diffusion XL",
        "segue.models.stable_diffusion_xl.StableDiffusionXL",
        "StableDiffusionXLPipeline",
        "StableDiffusionXLControlNetPipeline",
        "ControlNetModel",
        ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLControlNetImg2ImgPipeline"),
        "unet",
        {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    ),
    Family(
        "Stable Diffusion 3",
        "segue.models.stable_diffusion_3.StableDiffusion3",
        "StableDiffusion3Pipeline",
        "StableDiffusion3ControlNetPipeline",
        "SD3ControlNetModel",
        ("StableDiffusion3Img2ImgPipeline",),
        "transformer",
        {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3"},
    ),
    Family(
        "FLUX.1",
        "segue.models.flux.Flux",
        "FluxPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetModel",
        ("FluxImg2ImgPipeline",),
        "transformer",
        {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    ),
    Family(
        "Chroma",
        "segue.models.chroma.Chroma",
        "ChromaPipeline",
        "",
        "",
        ("ChromaImg2ImgPipeline",),
        "transformer",
        {"text_encoder": "tokenizer"},
    ),
    Family(
        "FLUX.2",
        "segue.models.flux2.Flux2",
        "Flux2Pipeline",
        "",
        "",
        (),
        "transformer",
        {"text_encoder": "tokenizer"},
    ),
    Family(
        "FLUX.2 Klein",
        "segue.models.flux2.Flux2",
        "Flux2KleinPipeline",
        "",
        "",
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


def check_takes_additions(family: Family) -> None:
    """Raise SegueError if LoRAs, VAEs, learnt tokens and clip_skip are not for a family."""
    if family.network != "unet":
        takers = " and ".join(taker.name for taker in FAMILIES if taker.network == "unet")
        raise SegueError(f"lora, vae, embedding and clip_skip are for {takers}, not for {family.name}")


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
    backbone: Backbone = getattr(import_module(module), name)(pipe, controlnet, clip_skip)
    return backbone
