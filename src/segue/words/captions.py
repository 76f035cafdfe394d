"""Captions for keyframes without a prompt.

"pocket" looks up the nearest of pocket's captions: the text whose CLIP vector has the largest cosine with the
picture's. With c_k the largest cosine of any caption of subject k (captions are "subject, style"), its certainty is

    exp(a c_best) / (exp(a c_none) + sum_k exp(a c_k)),

the share of its subject in a softmax over all subjects and "none of these". What is not sure enough is not a prompt.
"blip" is BLIP (Li et al., 2022, arXiv 2201.12086). Any other name is a transformers model that writes texts for
pictures, without a certainty; "none" leaves the prompts empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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

from segue.errors import SegueError
from segue.files import write_bytes
from segue.models.checkpoints import check_whole
from segue.models.clip import POCKET_CLIP, Clip
from segue.models.hub import read

__all__ = [
    "SURE_ENOUGH",
    "Caption",
    "captions",
    "describe_captions",
    "nearest_captions",
    "prompts_of",
    "read_captions",
    "subject_of",
    "write_caption_features",
]

BLIP = "Salesforce/blip-image-captioning-large"  # the base model's repository has only pickled weights
CAPTIONS = "captions.txt"
FEATURES = "captions.safetensors"
LONGEST = 40  # tokens of a written caption
SHARPNESS, NONE_OF_THESE = 60.0, 0.94  # a and c_none, chosen on held-out icons
SURE_ENOUGH = 0.75  # nine in ten of the held-out icons' captions above it have a word of what is shown: docs/words.md


@dataclass(frozen=True)
class Caption:
    """A caption of a picture.

    Attributes:
        text: the caption; empty without a captioner.
        sure: how sure it is, 0 to 1; None if its captioner does not say.
    """

    text: str
    sure: float | None = None

    @property
    def prompt(self) -> str:
        """The caption as a prompt; empty if it is not sure enough."""
        return "" if self.sure is not None and self.sure < SURE_ENOUGH else self.text


def captions(
    pictures: Sequence[Image.Image],
    captioner: str | None = None,
    *,
    model_name: str = "pocket",
    device: str | torch.device = "cpu",
) -> list[Caption]:
    """A caption for each picture, sure or not.

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
            return [Caption("")] * len(pictures)
        case "pocket":
            return nearest_captions(pictures, POCKET_CLIP.parent)
        case "blip":
            return [Caption(text) for text in read_captions(pictures, BLIP, device)]
        case name:
            return [Caption(text) for text in read_captions(pictures, name, device)]


def prompts_of(found: Sequence[Caption]) -> list[str]:
    """The captions as prompts; all empty if one is not sure enough, which would pull a film to the others' side."""
    return [caption.prompt if all(other.prompt for other in found) else "" for caption in found]


def describe_captions(found: Sequence[Caption]) -> str:
    """One line that says which captions become prompts, or that none does; without any caption it is empty."""
    texts = [f'"{one.text}"' + ("" if one.sure is None else f" ({100 * one.sure:.0f} %)") for one in found if one.text]
    if not texts:
        return ""
    if any(prompts_of(found)):
        return f"captions: {', '.join(texts)}"
    listed = ", ".join(texts)
    return f"captions are not sure enough to steer the film: {listed}; prompts stay empty; give your own with --prompt"


def nearest_captions(pictures: Sequence[Image.Image], folder: Path) -> list[Caption]:
    """The nearest caption to each picture, with how sure it is; the first of equally near ones.

    Args:
        pictures: what to describe.
        folder: the model's folder, with clip/, captions.txt and captions.safetensors.
    """
    lines = _lines(folder)
    vectors = _features(folder, len(lines))
    cosines = _clip(folder).images(pictures).double() @ vectors.T  # (pictures, captions)
    numbers: dict[str, int] = {}
    subjects = torch.tensor([numbers.setdefault(subject_of(line), len(numbers)) for line in lines])
    largest = torch.full((len(cosines), len(numbers)), -1.0, dtype=torch.float64)
    largest = largest.scatter_reduce(1, subjects.expand_as(cosines), cosines, "amax")  # (pictures, subjects)
    none = torch.full((len(cosines), 1), NONE_OF_THESE, dtype=torch.float64)
    shares = torch.softmax(SHARPNESS * torch.cat([largest, none], 1), 1)[:, :-1]
    return [Caption(lines[int(near.argmax())], float(share.max())) for near, share in zip(cosines, shares, strict=True)]


def subject_of(caption: str) -> str:
    """What a caption "subject, style" shows, in whatever style: its letters and digits, as they are compared."""
    subject, comma, style = caption.rpartition(", ")
    return "".join(letter for letter in (subject if comma else style).lower() if letter.isalnum())


def write_caption_features(folder: Path) -> None:
    """Write captions.safetensors, the float16 CLIP vectors of captions.txt in a model's folder, (captions, D)."""
    vectors = Clip.load(str(folder / POCKET_CLIP.name)).texts(_lines(folder))
    write_bytes(folder / FEATURES, save({"captions": vectors.half().contiguous()}))


def read_captions(pictures: Sequence[Image.Image], name: str, device: str | torch.device = "cpu") -> list[str]:
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
        raise SegueError(f"{path} has no captions")
    return lines


def _features(folder: Path, count: int) -> Tensor:
    """The captions' unit vectors, (captions, D) float64."""
    path = folder / FEATURES
    try:
        vectors: Tensor = load_file(path)["captions"]
    except (OSError, KeyError, SafetensorError) as error:
        raise SegueError(
            f"{path} has no caption vectors; reinstall segue for pocket's, or make them of the texts with "
            "segue.words.captions.write_caption_features"
        ) from error
    if len(vectors) != count:
        raise SegueError(f"{path} holds {len(vectors)} vectors for {count} captions; make it again")
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
