"""CLIP: pictures and texts as unit vectors of one space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, arXiv 2103.00020. Any
checkpoint of transformers' CLIP works, by folder or by name; pocket's own is the default.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from segue.errors import SegueError
from segue.machine import device_of
from segue.models.checkpoints import check_whole
from segue.models.hub import read

__all__ = ["POCKET_CLIP", "Clip"]

POCKET_CLIP = Path(__file__).with_name("pocket") / "clip"
TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class Clip:
    """One loaded CLIP.

    Attributes:
        name: the name or folder that it was loaded by; "pocket" for pocket's own.
        model: transformers' CLIPModel, in evaluation mode, float32.
        tokenizer: its tokenizer.
        processor: its image processor, the one that works on PIL images.
    """

    name: str
    model: Any
    tokenizer: Any
    processor: Any

    @classmethod
    def load(cls, name: str | None = None, device: str | torch.device = "cpu") -> Self:
        """Load a CLIP by folder or name; pocket's own without one.

        Raises:
            SegueError: it is missing, it is not a CLIP, its weights are not in safetensors, or the device is not there.
        """
        device = device_of(str(device))
        source = str(POCKET_CLIP) if name in (None, "pocket") else str(name)
        if name in (None, "pocket") and not POCKET_CLIP.is_dir():
            raise SegueError(f"pocket's CLIP is not at {POCKET_CLIP}; name another CLIP model")
        model, tokenizer, processor = read(source, "a CLIP", lambda local: _read(source, local))
        return cls("pocket" if name is None else name, model.eval().to(device), tokenizer, processor)

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Unit vectors of pictures, (B, D) float32 on the CPU; one at a time, so that none depends on the others."""
        rows = [self._image(picture) for picture in pictures]
        return torch.cat(rows) if rows else torch.zeros(0, self.model.config.projection_dim)

    @torch.no_grad()
    def texts(self, texts: str | Sequence[str]) -> Tensor:
        """Unit vectors of texts, (B, D) float32 on the CPU; what is longer than the text encoder's window is cut.

        One text has one vector, (1, D).
        """
        texts = (texts,) if isinstance(texts, str) else texts
        rows = [self._texts(texts[i : i + TEXTS_AT_ONCE]) for i in range(0, len(texts), TEXTS_AT_ONCE)]
        return torch.cat(rows) if rows else torch.zeros(0, self.model.config.projection_dim)

    def _image(self, picture: Image.Image) -> Tensor:
        pixels = self.processor(images=[picture.convert("RGB")], return_tensors="pt")["pixel_values"]
        pooled = self.model.vision_model(pixel_values=pixels.to(self.model.device)).pooler_output
        return _unit(self.model.visual_projection(pooled))

    def _texts(self, texts: Sequence[str]) -> Tensor:
        window = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=window, return_tensors="pt"
        ).to(self.model.device)
        pooled = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return _unit(self.model.text_projection(pooled))


def _read(source: str, local: bool) -> tuple[Any, Any, Any]:
    """The model, its tokenizer and its image processor."""
    config = transformers.AutoConfig.from_pretrained(source, local_files_only=local)
    if config.model_type != "clip":
        raise SegueError(f"{source} is a model of type {config.model_type}, not a CLIP")
    model, found = transformers.CLIPModel.from_pretrained(
        source, use_safetensors=True, dtype=torch.float32, output_loading_info=True, local_files_only=local
    )
    check_whole(found, f"{source} lacks weights of a CLIP")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(source, local_files_only=local)
    return model, tokenizer, _image_processor().from_pretrained(source, local_files_only=local)


def _image_processor() -> Any:
    """The class of image processors on PIL images, which has a name of its own since transformers 5."""
    return getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor


def _unit(vectors: Tensor) -> Tensor:
    """Rows of length one, float32 on the CPU."""
    return normalize(vectors.float().cpu(), dim=-1)
