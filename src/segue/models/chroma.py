"""Chroma by Lodestone Rock: FLUX.1's tokens, a negative branch, and a mask of the words in place of a pooled vector."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from segue.models.flow import FlowBackbone, FlowInputs
from segue.models.flux import grid_ids, pack, unpack

__all__ = ["Chroma"]


class Chroma(FlowBackbone):
    """A Chroma checkpoint as a backbone."""

    WINDOW: ClassVar = 512

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        encoded = self.pipe.encode_prompt(list(prompts), list(negative_prompts), device=self._device)
        text, _ids, mask, negative_text, _ids, negative_mask = (tensor.float().cpu() for tensor in encoded)
        return {"text": text, "mask": mask}, {"text": negative_text, "mask": negative_mask}

    def _velocity(self, x: Tensor, sigma: Tensor, inputs: FlowInputs) -> Tensor:
        text, (height, width) = inputs.tensors["text"], x.shape[-2:]
        tokens = pack(x)
        # In numbers, as the pipe has it: attention then prefers words and picture to padding, which it still sees.
        mask = torch.cat([inputs.tensors["mask"].to(x), x.new_ones(tokens.shape[:2])], 1)
        output = self.network(
            hidden_states=tokens,
            timestep=sigma,
            encoder_hidden_states=text,
            txt_ids=text.new_zeros(text.shape[1], 3),
            img_ids=grid_ids(height // 2, width // 2).to(text),
            attention_mask=mask,
            return_dict=False,
        )[0]
        return unpack(output, height, width)

    def _blocks(self) -> Sequence[str]:
        return ("transformer_blocks", "single_transformer_blocks")
