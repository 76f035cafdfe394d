"""What a single file of weights is, by the header of a safetensors file: names and shapes of its tensors, and notes.

No weights are read, so a file of another kind is refused at once. A checkpoint in the layout of the original releases
has its UNet under ``model.diffusion_model``, its VAE under ``first_stage_model``, and its text encoder where the family
puts it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from segue.errors import SegueError
from segue.models.checkpoints import PICKLES, check_vae

__all__ = [
    "VAES",
    "Family",
    "Header",
    "Prediction",
    "adapter_names",
    "check_additions",
    "check_file",
    "family_of",
    "prediction_of",
    "read_header",
]

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
LORA = r"lora_(unet|te\d?)_|.*[._]lora[._]|.*\.lora_[AB]\."
LYCORIS = {".hada_": "LoHa", ".lokr_": "LoKr", ".oft_": "OFT", ".dora_scale": "DoRA"}
DECODER = r"((first_stage_model|vae)\.)?decoder\."
ADDITIONS = {"vae": "a VAE", "lora": "a LoRA", "embedding": "an embedding"}  # by the option
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
        what = _what(header) or "not a checkpoint of Stable Diffusion 1.x, 2.x or XL in the original layout"
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


def check_additions(vae: Path | None, loras: Sequence[Path], embeddings: Sequence[Path]) -> None:
    """Raise SegueError if a file, or a VAE's folder, is not what it is given as."""
    if vae is not None and vae.is_dir():
        check_vae(vae, str(vae))
    elif vae is not None:
        _check_addition(vae, "vae")
    for option, paths in (("lora", loras), ("embedding", embeddings)):
        for path in paths:
            _check_addition(path, option)


def _check_addition(path: Path, option: str) -> None:
    """Raise SegueError if a file is not what an option takes."""
    what = ADDITIONS[option]
    if path.suffix in PICKLES:
        raise SegueError(f"{path} is a pickle, which can run code; segue reads {what} from .safetensors")
    if not path.is_file():
        raise SegueError(f"{path} is not {what}: no such file")
    header = read_header(path)
    if other := next((kind for mark, kind in LYCORIS.items() if any(mark in key for key in header.shapes)), None):
        raise SegueError(f"{path} is a {other}, not a LoRA that segue can use")
    is_it = {
        "vae": any(re.match(DECODER, key) for key in header.shapes),
        "lora": any(re.match(LORA, key) for key in header.shapes),
        "embedding": set(header.shapes) == {"clip_l", "clip_g"}
        or (len(header.shapes) == 1 and all(len(shape) <= 2 for shape in header.shapes.values())),
    }
    if not is_it[option]:
        raise SegueError(f"{path} is not {what}, but {_what(header) or 'something else'}")


def adapter_names(files: Sequence[Path]) -> list[str]:
    """The names under which LoRAs act, each once: those of their files, without dots and spaces."""
    found: list[str] = []
    for name in (re.sub(r"[.\s]+", "_", file.stem) for file in files):
        found.append(name if name not in found else f"{name}_{len(found) + 1}")
    return found


def _what(header: Header) -> str | None:
    """What a file is that is not a whole checkpoint in the original layout, by the names of its tensors."""
    if FIRST in header.shapes:
        return "a whole checkpoint (--model)"
    found = (what for names, what in OTHERS.items() if any(re.match(names, key) for key in header.shapes))
    return next(found, None)
