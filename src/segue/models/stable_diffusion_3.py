"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from segue.models.flow import TIMES, FlowBackbone, FlowInputs

__all__ = ["StableDiffusion3"]


class StableDiffusion3(FlowBackbone):
    """A Stable Diffusion 3 checkpoint as a backbone."""

    WINDOW: ClassVar = 256

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        encoded = self.pipe.encode_prompt(
            list(prompts),
            None,
            None,
            device=self._device,
            negative_prompt=list(negative_prompts),
        )
        text, negative_text, pooled, negative_pooled = (tensor.float().cpu() for tensor in encoded)
        return {"text": text, "pooled": pooled}, {"text": negative_text, "pooled": negative_pooled}

    def _velocity(self, x: Tensor, sigma: Tensor, inputs: FlowInputs) -> Tensor:
        output: Tensor = self.network(
            hidden_states=x,
            timestep=TIMES * sigma,
            encoder_hidden_states=inputs.tensors["text"],
            pooled_projections=inputs.tensors["pooled"],
            return_dict=False,
            **self._residuals(x, sigma, inputs),
        )[0]
        return output

    def _hint(self, network: Any, image: Tensor) -> Tensor:
        hint, vae = super()._hint(network, image), self.pipe.vae.config
        unshifted = network.config.force_zeros_for_pooled_projection
        return hint + vae.shift_factor * vae.scaling_factor if unshifted else hint

    def _control(
        self, network: Any, x: Tensor, hint: Tensor, sigma: Tensor, inputs: FlowInputs
    ) -> Mapping[str, Sequence[Tensor]]:
        text, pooled = (inputs.tensors[name].to(x.dtype) for name in ("text", "pooled"))
        config = network.config
        residuals = network(
            hidden_states=x,
            timestep=TIMES * sigma,
            encoder_hidden_states=None if config.joint_attention_dim is None else text,
            pooled_projections=torch.zeros_like(pooled) if config.force_zeros_for_pooled_projection else pooled,
            controlnet_cond=hint,
            return_dict=False,
        )[0]
        return {"block_controlnet_hidden_states": residuals}
