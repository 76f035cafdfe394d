"""Z-Image and Z-Image-Turbo (Z-Image Team 2025, arXiv 2511.22699)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from segue.models.flow import FlowBackbone, FlowInputs

__all__ = ["ZImage"]


class ZImage(FlowBackbone):
    """A Z-Image checkpoint as a backbone; its network takes lists of images of one frame, and of texts."""

    WORDS_FIRST: ClassVar[bool] = False

    @property
    def native_size(self) -> int:
        """Pixels along one side of the square images that the checkpoint was made for."""
        return 1024

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self._embed_branch(prompts), self._embed_branch(negative_prompts)

    def _embed_branch(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        texts, _ = self.pipe.encode_prompt(list(prompts), self._device, do_classifier_free_guidance=False)
        masks = [torch.ones(len(text), dtype=torch.bool) for text in texts]
        return {"text": pad_sequence(texts, True).float().cpu(), "mask": pad_sequence(masks, True)}

    def _velocity(self, x: Tensor, sigma: Tensor, inputs: FlowInputs) -> Tensor:
        texts = zip(inputs.tensors["text"], inputs.tensors["mask"], strict=True)
        output = self.network(
            list(x[:, :, None]),
            1 - sigma,
            [text[mask] for text, mask in texts],
            return_dict=False,
        )[0]
        return -torch.stack(output)[:, :, 0]

    def _guide(self, negative: Tensor, positive: Tensor, scale: float) -> Tensor:
        """Both branches' velocities as one, where a scale counts from the positive one, as the family has it."""
        return super()._guide(negative, positive, 1 + scale)

    def _blocks(self) -> Sequence[str]:
        return ("layers",)
