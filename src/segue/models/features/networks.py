"""Feature networks by name: pictures as vectors, the distances along a film, and texts where the network reads them.

    pixels           the picture itself, 16 x 16 in RGB: a floor that no network should fall below
    pocket           CLIP of the embedded model: works offline
    clip:NAME        any CLIP of transformers, by folder or name
    dinov2[:NAME]    DINOv2 (Oquab et al. 2023, arXiv 2304.07193)
    inception:FILE   Inception-v3 with FID's weights, converted to safetensors
    lpips:FILE       LPIPS with AlexNet or VGG-16, converted to safetensors; distances only

Pictures go through a network one at a time: no number depends on what else is measured.
"""

import hashlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from segue.errors import SegueError
from segue.files import write_bytes
from segue.method.perceptual import network_parts
from segue.models.clip import Clip
from segue.models.features import inception, lpips
from segue.models.features.distances import Array, SequencePath, path_of_features
from segue.models.hub import read

__all__ = ["Network", "convert", "load_network", "reuse_network"]

PIXELS = 16
DINOV2 = "facebook/dinov2-base"
Pictures = Sequence[Image.Image]


@dataclass(frozen=True)
class Network:
    """One feature network.

    Attributes:
        name: the name that it was asked for by; every report names it.
        fingerprint: a digest of its weights.
        path: the distances along a film.
        features: pictures as vectors, (F, D) float64; None if it only knows distances.
        texts: texts as vectors of the same space; None if it reads none.
    """

    name: str
    fingerprint: str
    path: Callable[[Pictures], SequencePath]
    features: Callable[[Pictures], Array] | None = None
    texts: Callable[[Sequence[str]], Array] | None = None


def load_network(name: str, device: str = "cpu") -> Network:
    """Load a feature network.

    Raises:
        SegueError: there is no such network, or it cannot be loaded.
    """
    kind, source = network_parts(name)
    match kind:
        case "pixels":
            return _feature_network(name, "pixels", _pixels)
        case "dinov2":
            return _dinov2(name, source or DINOV2, device)
        case "inception":
            return _inception(name, Path(source), device)
        case "lpips":
            return _lpips(name, Path(source), device)
        case _:  # "pocket", without a source, or "clip"
            return _clip(name, source or None, device)


def convert(sources: Sequence[Path], output: Path) -> int:
    """Write the tensors of .pth files into one safetensors file, running no code; return how many there are.

    Raises:
        SegueError: a file holds anything but tensors, two hold the same name, or the output is no .safetensors.
    """
    if output.suffix != ".safetensors":
        raise SegueError(f"{output}: the converted weights are a .safetensors file")
    tensors: dict[str, Tensor] = {}
    for source in sources:
        found = {
            name: tensor
            for name, tensor in _tensors_of(source).items()
            if not name.startswith("classifier.")  # of AlexNet and VGG-16; LPIPS reads their features only
        }
        if twice := sorted(found.keys() & tensors.keys()):
            raise SegueError(f"{source} holds {twice[0]}, which another of the files holds too")
        tensors |= found
    if not tensors:
        raise SegueError(f"{', '.join(map(str, sources))}: no tensors")
    write_bytes(output, save(tensors))
    return len(tensors)


def _tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict in a .pth file, by name; of a checkpoint that holds one, its "state_dict"."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SegueError(f"{path} is not a .pth file of tensors only; nothing was run") from error
    except OSError as error:
        raise SegueError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # torch raises whatever a damaged file leads to
        raise SegueError(f"{path} cannot be read as a .pth file of tensors") from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping):
        raise SegueError(f"{path} does not hold a state dict of tensors")
    tensors = {str(name): value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _feature_network(
    name: str,
    fingerprint: str,
    one: Callable[[Image.Image], Array],
    texts: Callable[[Sequence[str]], Array] | None = None,
) -> Network:
    """A network that turns one picture into a vector; distances are Euclidean."""

    def features(pictures: Pictures) -> Array:
        return np.stack([one(picture) for picture in pictures]).astype(np.float64)

    return Network(name, fingerprint, lambda pictures: path_of_features(features(pictures)), features, texts)


def _pixels(picture: Image.Image) -> Array:
    """The picture at 16 x 16 pixels, in [0, 1]."""
    small = picture.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64).reshape(-1) / 255


def _clip(name: str, source: str | None, device: str) -> Network:
    """CLIP's embedding at length sqrt(D), so that its numbers have a mean square of one whatever D is."""
    clip = Clip.load(source, device)

    def scale(vectors: Tensor) -> Array:
        numbers: Array = vectors.double().numpy() * np.sqrt(vectors.shape[1])
        return numbers

    return _feature_network(
        name,
        _fingerprint(clip.model.state_dict()),
        lambda picture: scale(clip.images([picture]))[0],
        lambda texts: scale(clip.texts(texts)),
    )


def _dinov2(name: str, source: str, device: str) -> Network:
    """DINOv2's class token after the last norm."""

    def load(local: bool) -> tuple[Any, Any]:
        options: dict[str, Any] = {"local_files_only": local}
        kind = getattr(transformers, "BitImageProcessorPil", None) or transformers.BitImageProcessor
        network = transformers.Dinov2Model.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **options)
        return network, kind.from_pretrained(source, **options)

    model, processor = read(source, "a DINOv2", load)
    model.eval().to(device)

    @torch.no_grad()
    def one(picture: Image.Image) -> Array:
        pixels = processor(images=[picture.convert("RGB")], return_tensors="pt")["pixel_values"].to(device)
        vector: Array = model(pixel_values=pixels).pooler_output[0].double().cpu().numpy()
        return vector

    return _feature_network(name, _fingerprint(model.state_dict()), one)


def _inception(name: str, file: Path, device: str) -> Network:
    """Inception-v3's 2048 features."""
    weights = _weights(file)
    inception.check_weights(weights, str(file))
    there = {key: tensor.to(device) for key, tensor in weights.items()}

    @torch.no_grad()
    def one(picture: Image.Image) -> Array:
        vector: Array = inception.features(there, _tensor(picture, device))[0].double().cpu().numpy()
        return vector

    return _feature_network(name, _fingerprint(weights), one)


def _lpips(name: str, file: Path, device: str) -> Network:
    """LPIPS between neighbours and to the keyframes; the activations of three frames are held at a time."""
    weights = _weights(file)
    lpips.check_weights(weights, str(file))
    there = {key: tensor.to(device) for key, tensor in weights.items()}

    @torch.no_grad()
    def path(pictures: Pictures) -> SequencePath:
        def layers(picture: Image.Image) -> list[Tensor]:
            if min(picture.size) < 31:
                raise SegueError(f"LPIPS needs pictures of 31 pixels or more, not {picture.width} x {picture.height}")
            return lpips.activations(there, _tensor(picture, device))

        first, last = layers(pictures[0]), layers(pictures[-1])
        steps: list[float] = []
        to_first: list[float] = []
        to_last: list[float] = []
        before = first
        for picture in pictures:
            present = layers(picture)
            for distances, other in ((steps, before), (to_first, first), (to_last, last)):
                distances.append(float(lpips.distance(there, other, present)))
            before = present
        return SequencePath(np.array(steps[1:]), np.array(to_first), np.array(to_last))

    return Network(name, _fingerprint(weights), path)


def _tensor(picture: Image.Image, device: str) -> Tensor:
    """One picture as (1, 3, H, W) float32 in [0, 1]."""
    numbers = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(numbers).permute(2, 0, 1)[None].contiguous().to(device)


def _weights(file: Path) -> dict[str, Tensor]:
    """The floating-point tensors of a safetensors file, as float32."""
    if file.suffix != ".safetensors":
        raise SegueError(f"{file} is not a .safetensors file; make one with segue evaluate --convert {file}")
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise SegueError(f"{file} cannot be read: {error}") from error
    return {name: tensor.float() for name, tensor in found.items() if tensor.is_floating_point()}


def _fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A digest of all weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def reuse_network(name: str) -> Network:
    """The feature network of a name; the last one stays loaded, for the films after this one.

    Raises:
        SegueError: there is no such network, or it cannot be loaded.
    """
    return load_network(name)
