"""Qwen-Image (Wu et al. 2025, arXiv 2508.02324)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.models.flow import FlowBackbone, FlowInputs
from segue.models.flux import pack, unpack

__all__ = ["QwenImage"]


class QwenImage(FlowBackbone):
    """A Qwen-Image checkpoint as a backbone; its autoencoder is one of videos, and takes an image as one frame."""

    @property
    def latent_channels(self) -> int:
        """C of a latent (B, C, h, w)."""
        return int(self.pipe.vae.config.z_dim)

    def _to_latents(self, images: Tensor) -> Tensor:
        return super()._to_latents(images[:, :, None])[:, :, 0]

    def _to_images(self, latents: Tensor) -> Tensor:
        return super()._to_images(latents[:, :, None])[:, :, 0]

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self._embed_branch(prompts), self._embed_branch(negative_prompts)

    def _embed_branch(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        text, mask = self.pipe.encode_prompt(list(prompts), self._device)
        mask = torch.ones(text.shape[:2]) if mask is None else mask
        return {"text": text.float().cpu(), "mask": mask.bool().cpu()}

    def _velocity(self, x: Tensor, sigma: Tensor, inputs: FlowInputs) -> Tensor:
        mask, (height, width) = inputs.tensors["mask"], x.shape[-2:]
        output = self.network(
            hidden_states=pack(x),
            timestep=sigma,
            encoder_hidden_states=inputs.tensors["text"],
            encoder_hidden_states_mask=None if mask.all() else mask,
            img_shapes=[[(1, height // 2, width // 2)]] * len(x),
            return_dict=False,
        )[0]
        return unpack(output, height, width)

    def _guide(self, negative: Tensor, positive: Tensor, scale: float) -> Tensor:
        """Both branches' velocities as one, with the norm that each token has in the positive one."""
        guided, (height, width) = pack(super()._guide(negative, positive, scale)), positive.shape[-2:]
        norm = pack(positive).norm(dim=-1, keepdim=True)
        return unpack(guided * norm / guided.norm(dim=-1, keepdim=True), height, width)
