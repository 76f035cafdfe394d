"""Stable Diffusion 1.x and 2.x, and checkpoints of their shape: one text encoder."""

from collections.abc import Sequence

from torch import Tensor

from segue.models.unet import UNetBackbone

__all__ = ["StableDiffusion"]


class StableDiffusion(UNetBackbone):
    """A Stable Diffusion 1.x or 2.x checkpoint as a backbone."""

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        encoded = self.pipe.encode_prompt(
            list(prompts), self._device, 1, True, list(negative_prompts), clip_skip=self.clip_skip or None
        )
        prompt, negative = (tensor.float().cpu() for tensor in encoded)
        return {"text": prompt}, {"text": negative}
