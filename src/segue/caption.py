"""Captions for keyframes without a prompt.

"pocket" looks up the nearest of pocket's captions: the text whose CLIP vector has the largest cosine with the
picture's. "blip" is BLIP (Li et al., 2022, arXiv 2201.12086). Any other name is a transformers model that writes
texts for pictures; "none" leaves the prompts empty.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import normalize

from segue.clip import POCKET_CLIP, Clip
from segue.errors import SegueError
from segue.files import write_bytes
from segue.models import check_whole
from segue.models.hub import read

__all__ = ["captions", "nearest_captions", "write_caption_features", "written_captions"]

BLIP = "Salesforce/blip-image-captioning-large"  # the base model's repository has pickled weights only
CAPTIONS = "captions.txt"
FEATURES = "captions.safetensors"
LONGEST = 40  # tokens of a written caption


def captions(
    pictures: Sequence[Image.Image],
    captioner: str | None = None,
    *,
    model_name: str = "pocket",
    device: str | torch.device = "cpu",
) -> list[str]:
    """A caption for each picture.

    Args:
        pictures: the keyframes.
        captioner: "pocket", "blip", "none", or the name or folder of a captioning model; without one, "pocket" for
            the model pocket and "none" for all others.
        model_name: the name of the diffusion model that the captions are for.
        device: where a captioning model runs.

    Raises:
        SegueError: the captioner is not there or cannot be loaded.
    """
    match captioner or ("pocket" if model_name == "pocket" else "none"):
        case "none":
            return [""] * len(pictures)
        case "pocket":
            return nearest_captions(pictures, POCKET_CLIP.parent)
        case "blip":
            return written_captions(pictures, BLIP, device)
        case name:
            return written_captions(pictures, name, device)


def nearest_captions(pictures: Sequence[Image.Image], folder: Path) -> list[str]:
    """The nearest caption to each picture; the first of equally near ones.

    Args:
        pictures: what to describe.
        folder: the model's folder, with clip/, captions.txt and captions.safetensors.
    """
    lines = _lines(folder)
    vectors = _features(folder, len(lines))
    found = _clip(folder).images(pictures).double() @ vectors.T  # (pictures, captions)
    return [lines[int(row.argmax())] for row in found]


def write_caption_features(folder: Path) -> None:
    """Write captions.safetensors, the float16 CLIP vectors of captions.txt in a model's folder, (captions, D)."""
    vectors = Clip.load(str(folder / POCKET_CLIP.name)).texts(_lines(folder))
    write_bytes(folder / FEATURES, save({"captions": vectors.half().contiguous()}))


def written_captions(pictures: Sequence[Image.Image], name: str, device: str | torch.device = "cpu") -> list[str]:
    """Captions written by a transformers model for pictures to text, by name or folder; greedy, one at a time."""
    processor, tokenizer, model = read(name, "a captioning model", lambda local: _read(name, local))
    model = model.eval().to(device)
    texts = []
    for picture in pictures:
        pixels = processor(images=[picture.convert("RGB")], return_tensors="pt")["pixel_values"].to(model.device)
        with torch.no_grad():
            tokens = model.generate(pixel_values=pixels, max_new_tokens=LONGEST, do_sample=False)
        texts.append(" ".join(tokenizer.decode(tokens[0], skip_special_tokens=True).split()))
    return texts


@lru_cache(maxsize=1)
def _clip(folder: Path) -> Clip:
    """The CLIP of a model's folder, loaded once."""
    return Clip.load(str(folder / POCKET_CLIP.name))


def _lines(folder: Path) -> list[str]:
    """The captions of a model's folder, one a line."""
    path = folder / CAPTIONS
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise SegueError(f"{path} cannot be read, so no caption can be looked up: {error.strerror}") from error
    if not lines:
        raise SegueError(f"{path} holds no captions")
    return lines


def _features(folder: Path, count: int) -> Tensor:
    """The captions' unit vectors, (captions, D) float64."""
    path = folder / FEATURES
    try:
        vectors: Tensor = load_file(path)["captions"]
    except (OSError, KeyError, SafetensorError) as error:
        raise SegueError(
            f"{path} holds no caption vectors; install segue anew for pocket's, or make them of the texts with "
            "segue.caption.write_caption_features"
        ) from error
    if len(vectors) != count:
        raise SegueError(f"{path} holds {len(vectors)} vectors for {count} captions; make it anew")
    return normalize(vectors.double(), dim=-1)


def _read(name: str, local: bool) -> tuple[Any, Any, Any]:
    """The image processor, which works on PIL images without torchvision, the tokenizer and the model."""
    major = int(transformers.__version__.split(".")[0])
    options: dict[str, Any] = {"backend": "pil"} if major >= 5 else {"use_fast": False}
    model, found = transformers.AutoModelForImageTextToText.from_pretrained(
        name, use_safetensors=True, output_loading_info=True, local_files_only=local
    )
    check_whole(found, f"{name} lacks weights of a captioning model")
    return (
        transformers.AutoImageProcessor.from_pretrained(name, local_files_only=local, **options),
        transformers.AutoTokenizer.from_pretrained(name, local_files_only=local),
        model,
    )
