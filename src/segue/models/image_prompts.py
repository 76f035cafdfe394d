"""Pictures as prompts: an IP-Adapter, by which a UNet looks at a picture beside the words.

With Q the queries of a cross-attention layer, c the words and i the tokens that the adapter makes of what CLIP sees in
a picture, the layer gives

    attention(Q, K c, V c) + scale attention(Q, K' i, V' i),

and an adapter is the projection to i and all K', V'. Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for
Text-to-Image Diffusion Models", 2023, arXiv 2308.06721. The layers are diffusers'.
"""

import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors.torch import load_file
from torch import Tensor

from segue.errors import SegueError, one_line
from segue.models.checkpoints import CONFIG, check_weights, check_whole, resolve_adapter

__all__ = ["add_image_adapter"]

FOLDER = "image_encoder"
PROJECTION, LAYERS = "image_proj.", "ip_adapter."
# The kinds of adapters by a tensor of their projection: which axis of which tensor is as wide as what CLIP sees, and
# what CLIP calls that width.
KINDS = {
    "proj.weight": ("proj.weight", 1, "projection_dim"),
    "latents": ("proj_in.weight", 1, "hidden_size"),  # plus
    "proj.3.weight": ("proj.0.weight", 1, "hidden_size"),  # full face
}


def add_image_adapter(pipe: Any, source: str | PathLike[str]) -> None:
    """Load an IP-Adapter and its image encoder into a pipe.

    Args:
        pipe: a pipe of diffusers with a UNet.
        source: a .safetensors file, a folder with one, or a file on the hub, as
            h94/IP-Adapter/models/ip-adapter_sd15.safetensors. The image encoder is the folder ``image_encoder``
            beside the file, or in the folder above or another one there, whichever fits.

    Raises:
        SegueError: it is missing, pickled, damaged or for another model, or its image encoder is missing.
    """
    name, found = str(source), resolve_adapter(source)
    file = found if isinstance(found, Path) else _download(found)
    tensors = _try(name, lambda: load_file(file))
    projection, layers = (
        {key.removeprefix(part): tensor for key, tensor in tensors.items() if key.startswith(part)}
        for part in (PROJECTION, LAYERS)
    )
    _check_fit(name, layers, pipe)
    folder = _find_encoder(name, file, *_width_of(name, projection))
    check_weights(folder, str(folder))
    encoder, report = _try(
        str(folder),
        lambda: transformers.CLIPVisionModelWithProjection.from_pretrained(
            folder, dtype=pipe.unet.dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        ),
    )
    check_whole(report, f"{folder} lacks weights of an image encoder")
    pipe.register_modules(image_encoder=encoder.eval())
    if getattr(pipe, "feature_extractor", None) is None:
        side = encoder.config.image_size
        pipe.register_modules(feature_extractor=_image_processor()(size=side, crop_size=side))
    state = {"image_proj": projection, "ip_adapter": layers}
    try:
        _try(name, lambda: pipe.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None))
    except SegueError:
        if missing := [key for key, weight in pipe.unet.named_parameters() if weight.is_meta]:
            raise SegueError(f"{name} lacks weights of an IP-Adapter, such as {missing[0]}") from None
        raise


def _width_of(name: str, projection: Mapping[str, Tensor]) -> tuple[int, str]:
    """How wide the vectors are that an adapter takes of its image encoder, and which width of CLIP that is."""
    is_faces = "norm.weight" in projection and "proj.0.weight" in projection and "proj.3.weight" not in projection
    if is_faces or any(key.startswith("perceiver_resampler.") for key in projection):
        raise SegueError(f"{name} is an IP-Adapter of faces (FaceID), which takes no whole pictures")
    for key, (tensor, axis, width) in KINDS.items():
        if key in projection and tensor in projection:
            return projection[tensor].shape[axis], width
    raise SegueError(f"{name} is not an IP-Adapter: it has no image projection that is known")


def _check_fit(name: str, layers: Mapping[str, Tensor], pipe: Any) -> None:
    """Raise SegueError if an adapter's layers are not those of a pipe's UNet."""
    if not layers:
        raise SegueError(f"{name} is not an IP-Adapter: it has no {LAYERS}* tensors")
    found = [tensor.shape for key, tensor in layers.items() if key.endswith(".to_k_ip.weight")]
    expected = [m.to_k.weight.shape for n, m in pipe.unet.named_modules() if n.endswith(".attn2")]
    if sorted(found) != sorted(expected):
        here, there = (
            f"{len(shapes)} layers for prompts {max((shape[1] for shape in shapes), default=0)} wide"
            for shapes in (found, expected)
        )
        raise SegueError(f"{name} is for another model: it has {here}, the UNet has {there}")


def _find_encoder(name: str, file: Path, width: int, kind: str) -> Path:
    """The folder of the image encoder that gives vectors of a width."""
    places = [file.parent / FOLDER, file.parents[1] / FOLDER, *sorted(file.parents[1].glob(f"*/{FOLDER}"))]
    there = [place for place in dict.fromkeys(places) if (place / CONFIG).is_file()]
    for place in there:
        if json.loads((place / CONFIG).read_text(encoding="utf-8")).get(kind) == width:
            return place
    if there:
        raise SegueError(f"{name} needs an image encoder with {kind} {width}; {there[0]} has another")
    raise SegueError(f"{name} has no image encoder: put its folder {FOLDER} (h94/IP-Adapter has it) beside the file")


def _download(name: str) -> Path:
    """An adapter's file of the hub with the image encoder that fits; what lies in the local cache is not asked for."""
    owner, repository, *path = name.split("/")
    repository, inside = f"{owner}/{repository}", "/".join(path)

    def fetch(local: bool) -> Path:
        file = Path(hf_hub_download(repository, inside, local_files_only=local))
        snapshot_download(repository, allow_patterns=f"*{FOLDER}/{CONFIG}", local_files_only=local)
        projection = {k.removeprefix(PROJECTION): t for k, t in load_file(file).items() if k.startswith(PROJECTION)}
        encoder = _find_encoder(name, file, *_width_of(name, projection))
        weights = encoder.relative_to(file.parents[len(path) - 1]) / "model.safetensors"
        hf_hub_download(repository, weights.as_posix(), local_files_only=local)
        return file

    try:
        return fetch(True)
    except Exception:  # a part of it is missing
        file: Path = _try(name, lambda: fetch(False))
        return file


def _try(name: str, load: Callable[[], Any]) -> Any:
    """What is loaded; SegueError in one line where the loaders raise whatever they like."""
    try:
        return load()
    except SegueError:
        raise
    except Exception as error:
        text = one_line(error)
        raise SegueError(f"{name} cannot be loaded: {text}") from error


def _image_processor() -> Any:
    """The class of CLIP's image processors on PIL images, which has a name of its own since transformers 5."""
    return getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
