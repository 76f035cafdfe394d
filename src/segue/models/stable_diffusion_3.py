"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206)."""

from collections.abc import Sequence

from torch import Tensor

from segue.models.flow import TIMES, FlowBackbone, FlowInputs

__all__ = ["StableDiffusion3"]


class StableDiffusion3(FlowBackbone):
    """A Stable Diffusion 3 checkpoint as a backbone."""

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        encoded = self.pipe.encode_prompt(
            list(prompts),
            None,
            None,
            device=self._device,
            negative_prompt=list(negative_prompts),
            clip_skip=self.clip_skip or None,
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
        )[0]
        return output
