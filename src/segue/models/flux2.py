"""FLUX.2 by Black Forest Labs: dev, which is told the guidance scale, and Klein, whose base has a negative branch."""

import math
from collections.abc import Sequence

import torch
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from torch import Tensor
from torch.nn.functional import pad

from segue.models.flow import FlowBackbone, FlowInputs
from segue.models.flux import grid_ids, pack, unpack

__all__ = ["Flux2"]


class Flux2(FlowBackbone):
    """A FLUX.2 checkpoint as a backbone."""

    def _normalise(self, mean: Tensor) -> Tensor:
        shift, spread = self._statistics()
        return unpack((pack(mean) - shift) / spread, *mean.shape[-2:])

    def _denormalise(self, z: Tensor) -> Tensor:
        shift, spread = self._statistics()
        return unpack(pack(z) * spread + shift, *z.shape[-2:])

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each of a token's numbers, (4 C,), which the VAE has learnt."""
        vae = self.pipe.vae
        mean, variance = (buffer.float().cpu() for buffer in (vae.bn.running_mean, vae.bn.running_var))
        return mean, (variance + vae.config.batch_norm_eps).sqrt()

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self._embed_branch(prompts), self._embed_branch(negative_prompts)

    def _embed_branch(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        text, _ids = self.pipe.encode_prompt(list(prompts), device=self._device)
        return {"text": text.float().cpu()}

    def _embeds_guidance(self) -> bool:
        return bool(self.pipe.transformer.config.guidance_embeds)

    def _is_distilled(self) -> bool:
        return bool(self.pipe.config.get("is_distilled", True))  # only Klein's pipe tells

    def _shift(self, tokens: int, steps: int) -> float:
        if not self.pipe.scheduler.config.get("use_dynamic_shifting"):
            return super()._shift(tokens, steps)
        return math.exp(compute_empirical_mu(tokens, steps))

    def _velocity(self, x: Tensor, sigma: Tensor, inputs: FlowInputs) -> Tensor:
        text, (height, width) = inputs.tensors["text"], x.shape[-2:]
        guidance = None if inputs.embedded is None else torch.full_like(sigma, inputs.embedded)
        output = self.network(
            hidden_states=pack(x),
            timestep=sigma,
            guidance=guidance,
            encoder_hidden_states=text,
            txt_ids=pad(torch.arange(text.shape[1])[:, None], (3, 0)).to(x.device),
            img_ids=pad(grid_ids(height // 2, width // 2), (0, 1)).to(x.device),
            return_dict=False,
        )[0]
        return unpack(output, height, width)

    def _blocks(self) -> Sequence[str]:
        return ("transformer_blocks", "single_transformer_blocks")
