"""What a single file of weights is, by the header of a safetensors file: names and shapes of its tensors, and notes.

No weights are read, so a file of another kind is refused at once. A checkpoint in the layout of the original releases
has its UNet under ``model.diffusion_model``, its VAE under ``first_stage_model``, and its text encoder where the family
puts it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from segue.errors import SegueError

__all__ = ["Family", "Header", "Prediction", "check_file", "family_of", "prediction_of", "read_header"]

Family = Literal["v1", "v2", "xl"]
Prediction = Literal["epsilon", "v_prediction"]

UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"  # (width, channels, 3, 3)
CHANNELS = {9: "for inpainting", 8: "for editing by instructions", 7: "for upscaling", 5: "with depth"}
VAES = ("first_stage_model.", "vae.")
TEXT: Mapping[
    str, Family
] = {  # in this order: the refiner has the second encoder of XL alone, in the first one's place
    "conditioner.embedders.1.model.": "xl",
    "cond_stage_model.model.": "v2",
    "cond_stage_model.transformer.text_model.": "v1",
}
REFINER = "conditioner.embedders.0.model."
MARKS = {  # tensors that only models which need another schedule or other conditioning have
    "edm_mean": "Playground 2.5",
    "edm_vpred.sigma_max": "CosXL",
}
UNCLIP = f"{UNET}label_emb.0.0.weight"  # of XL too, which has it for sizes
# What holds no UNet in the original layout, by the names of its tensors.
OTHERS = {
    r"lora_|.*\.(lora|hada|lokr|oft)_|.*\.lora\.": "a LoRA, which is used beside a model (--lora)",
    r"control_model\.|.*controlnet_|input_hint_block\.": "a ControlNet, which is used beside a model (--controlnet)",
    r"ip_adapter\.|image_proj": "an IP-Adapter, which is used beside a model",
    r"emb_params$|clip_[lg]$|string_to_param": "an embedding, which is used beside a model (--embedding)",
    r"(model\.diffusion_model\.)?double_blocks\.": "of FLUX",
    r"(model\.diffusion_model\.)?joint_blocks\.": "of Stable Diffusion 3",
    r"down_blocks\.": "one network in diffusers layout; give the folder that holds it, its VAE and its text encoder",
    r"(first_stage_model\.)?(en|de)coder\.": "a VAE, which is one part of a model",
}
V, EPSILON = ("v", "v_prediction", "velocity"), ("epsilon", "eps")  # modelspec.prediction_type


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file."""

    name: str  # of the file, in messages
    shapes: Mapping[str, tuple[int, ...]]
    notes: Mapping[str, str]

    def has(self, *starts: str) -> bool:
        """Whether a tensor's name begins with one of these."""
        return any(name.startswith(starts) for name in self.shapes)


def check_file(path: Path, name: str) -> None:
    """Raise SegueError if a file is not a whole checkpoint of Stable Diffusion 1.x, 2.x or XL."""
    family_of(read_header(path, name))


def read_header(path: Path, name: str | None = None) -> Header:
    """The header of a safetensors file; raises SegueError if it is damaged or cut off."""
    try:
        with safe_open(path, framework="np") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            return Header(name or str(path), shapes, file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise SegueError(f"{name or path} is not a whole .safetensors file: {error}") from error


def family_of(header: Header) -> Family:
    """The family of a checkpoint in the original layout; raises SegueError for whatever else a file is."""
    if FIRST not in header.shapes:
        found = (what for names, what in OTHERS.items() if any(re.match(names, key) for key in header.shapes))
        what = next(found, "not a checkpoint of Stable Diffusion 1.x, 2.x or XL in the original layout")
        raise SegueError(f"{header.name} is {what}")
    channels = header.shapes[FIRST][1]
    family = next((family for start, family in TEXT.items() if header.has(start)), None)
    fault = next((what for mark, what in MARKS.items() if mark in header.shapes), None)
    if channels != 4:
        fault = f"a model {CHANNELS.get(channels, f'of {channels} channels')}"
    elif family is None and header.has(REFINER):
        fault = "the refiner of Stable Diffusion XL; give the base model"
    elif family in ("v1", "v2") and UNCLIP in header.shapes:
        fault = "Stable unCLIP"
    if fault:
        raise SegueError(f"{header.name} is {fault}; segue takes text-to-image checkpoints of Stable Diffusion")
    for part, is_there in (("text encoder", family is not None), ("VAE", header.has(*VAES))):
        if not is_there:
            raise SegueError(f"{header.name} has no {part}; segue takes files of a whole checkpoint")
    assert family is not None
    return family


def prediction_of(header: Header) -> Prediction | None:
    """What the network predicts, where the file says it: by its notes (modelspec) or by an empty tensor "v_pred"."""
    named = header.notes.get("modelspec.prediction_type", "").lower()
    architecture = header.notes.get("modelspec.architecture", "")
    if named in EPSILON or (named not in V and architecture.startswith("stable-diffusion-v2-512")):
        return "epsilon"
    is_v = named in V or architecture.startswith("stable-diffusion-v2-768-v") or "v_pred" in header.shapes
    return "v_prediction" if is_v else None
