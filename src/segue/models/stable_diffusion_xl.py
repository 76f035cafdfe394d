"""Stable Diffusion XL and its kin (Podell et al. 2023, arXiv 2307.01952).

Two text encoders give token embeddings side by side; the second one's pooled vector and the picture's size and crop
go to the UNet beside them. An empty negative prompt is all zeros where the checkpoint asks for that.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from segue.errors import SegueError
from segue.models.unet import UNetBackbone

__all__ = ["StableDiffusionXL"]


class StableDiffusionXL(UNetBackbone):
    """A Stable Diffusion XL checkpoint as a backbone."""

    ADDITION: ClassVar = "text_time"
    FEATURES: ClassVar = slice(0, 2)
    UPCASTS: ClassVar = True

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        encoded = self.pipe.encode_prompt(
            list(prompts),
            device=self._device,
            do_classifier_free_guidance=True,
            negative_prompt=list(negative_prompts),
            clip_skip=self.clip_skip or None,
        )
        text, negative_text, pooled, negative_pooled = (tensor.float().cpu() for tensor in encoded)
        if self.pipe.config.force_zeros_for_empty_prompt:
            empty = torch.tensor([not prompt for prompt in negative_prompts])
            negative_text[empty], negative_pooled[empty] = 0.0, 0.0
        return {"text": text, "pooled": pooled}, {"text": negative_text, "pooled": negative_pooled}

    def _added(self, tensors: Mapping[str, Tensor], z: Tensor) -> dict[str, Any]:
        height, width = (side * self.latent_scale for side in z.shape[-2:])
        ids = torch.tensor([[height, width, 0, 0, height, width]]).to(tensors["text"])  # size, crop, target size
        return {"text_embeds": tensors["pooled"], "time_ids": ids.expand(len(tensors["text"]), -1)}

    def _check_pipe(self) -> None:
        super()._check_pipe()
        unet = self.pipe.unet
        takes = unet.add_embedding.linear_1.in_features
        gives = self.pipe.text_encoder_2.config.projection_dim + 6 * unet.config.addition_time_embed_dim
        if takes != gives:
            raise SegueError(f"{self.name} takes other sizes than Stable Diffusion XL's base: a refiner, for instance")
