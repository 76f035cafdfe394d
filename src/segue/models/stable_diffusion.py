"""Stable Diffusion 1.x and 2.x, and checkpoints of their shape: one text encoder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from segue.models.unet import UNetBackbone

__all__ = ["StableDiffusion"]


class StableDiffusion(UNetBackbone):
    """A Stable Diffusion 1.x or 2.x checkpoint as a backbone."""

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        skip = self.clip_skip or None
        with _naming_text_model(self.pipe.text_encoder):
            encoded = self.pipe.encode_prompt(
                list(prompts), self._device, 1, True, list(negative_prompts), clip_skip=skip
            )
        prompt, negative = (tensor.float().cpu() for tensor in encoded)
        return {"text": prompt}, {"text": negative}


@contextmanager
def _naming_text_model(encoder: Any) -> Iterator[None]:
    """A text encoder that is its own ``text_model``, where diffusers 0.42 looks for the last norm to skip layers.

    In transformers 5 a CLIPTextModel has no such part any more.
    """
    lacks = not hasattr(encoder, "text_model")
    try:
        if lacks:
            vars(encoder)["text_model"] = encoder  # no submodule, which would make it its own part
        yield
    finally:
        if lacks:
            del vars(encoder)["text_model"]
