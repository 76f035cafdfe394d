"""Sana and Sana 1.5 (Xie et al. 2024, arXiv 2410.10629; 2025, arXiv 2501.18427)."""

from collections.abc import Sequence
from inspect import signature
from typing import ClassVar

from torch import Tensor

from segue.models.flow import TIMES, FlowBackbone, FlowInputs

__all__ = ["Sana"]


class Sana(FlowBackbone):
    """A Sana checkpoint as a backbone; its autoencoder gives a latent without a posterior, 32 times smaller."""

    PATCH: ClassVar[int] = 1

    @property
    def native_size(self) -> int:
        """Pixels along one side of the square images that the checkpoint was made for."""
        return int(self.pipe.transformer.config.sample_size) * self.latent_scale

    def _to_latents(self, images: Tensor) -> Tensor:
        latent: Tensor = self.pipe.vae.encode(images).latent
        return latent

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        # The instruction that the pipe puts before a prompt is written in its call alone.
        instruction = signature(self.pipe.__call__).parameters["complex_human_instruction"].default
        encoded = self.pipe.encode_prompt(
            list(prompts),
            negative_prompt=list(negative_prompts),
            device=self._device,
            complex_human_instruction=instruction,
        )
        text, mask, negative_text, negative_mask = (tensor.cpu() for tensor in encoded)
        positive = {"text": text.float(), "mask": mask.bool()}
        return positive, {"text": negative_text.float(), "mask": negative_mask.bool()}

    def _velocity(self, x: Tensor, sigma: Tensor, inputs: FlowInputs) -> Tensor:
        output: Tensor = self.network(
            hidden_states=x,
            encoder_hidden_states=inputs.tensors["text"],
            encoder_attention_mask=inputs.tensors["mask"],
            timestep=TIMES * sigma * self.pipe.transformer.config.timestep_scale,
            return_dict=False,
        )[0]
        return output
