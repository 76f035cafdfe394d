"""FLUX.1 by Black Forest Labs: dev, which is told the guidance scale, and schnell, which has none."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from segue.models.flow import FlowBackbone, FlowInputs

__all__ = ["Flux", "grid_ids", "pack", "unpack"]

POSE = 4  # of the kinds of control that a union ControlNet tells apart


class Flux(FlowBackbone):
    """A FLUX.1 checkpoint as a backbone."""

    WINDOW: ClassVar = 512

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self._embed_branch(prompts), self._embed_branch(negative_prompts)

    def _embed_branch(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        text, pooled, _ids = self.pipe.encode_prompt(list(prompts), None, device=self._device)
        return {"text": text.float().cpu(), "pooled": pooled.float().cpu()}

    def _embeds_guidance(self) -> bool:
        return bool(self.pipe.transformer.config.guidance_embeds)

    def _is_distilled(self) -> bool:
        return True

    def _velocity(self, x: Tensor, sigma: Tensor, inputs: FlowInputs) -> Tensor:
        output = self.network(**self._arguments(x, sigma, inputs), **self._residuals(x, sigma, inputs))[0]
        return unpack(output, *x.shape[-2:])

    def _arguments(self, x: Tensor, sigma: Tensor, inputs: FlowInputs) -> dict[str, Any]:
        """What the network and its ControlNets are called with."""
        text, (height, width) = inputs.tensors["text"].to(x.dtype), x.shape[-2:]
        return {
            "hidden_states": pack(x),
            "timestep": sigma,
            "guidance": None if inputs.embedded is None else torch.full_like(sigma, inputs.embedded),
            "pooled_projections": inputs.tensors["pooled"].to(x.dtype),
            "encoder_hidden_states": text,
            "txt_ids": text.new_zeros(text.shape[1], 3),
            "img_ids": grid_ids(height // 2, width // 2).to(text),
            "return_dict": False,
        }

    def _control(
        self, network: Any, x: Tensor, hint: Tensor, sigma: Tensor, inputs: FlowInputs
    ) -> Mapping[str, Sequence[Tensor]]:
        arguments = self._arguments(x, sigma, inputs)
        if not network.config.guidance_embeds:
            arguments["guidance"] = None
        if network.union:
            arguments["controlnet_mode"] = torch.full((len(x), 1), POSE, device=x.device)
        blocks, single = network(controlnet_cond=pack(hint), **arguments)
        found = {"controlnet_block_samples": blocks, "controlnet_single_block_samples": single}
        return {name: parts for name, parts in found.items() if parts}

    def _blocks(self) -> Sequence[str]:
        return ("transformer_blocks", "single_transformer_blocks")


def pack(z: Tensor) -> Tensor:
    """Latents (B, C, h, w) to a token for each 2 x 2 of them, (B, h w / 4, 4 C)."""
    batch, channels, height, width = z.shape
    patches = z.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, height * width // 4, 4 * channels)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens (B, h w / 4, 4 C) back to latents (B, C, h, w)."""
    patches = tokens.reshape(len(tokens), height // 2, width // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(len(tokens), -1, height, width)


def grid_ids(height: int, width: int) -> Tensor:
    """Where each token lies, (h w, 3): nothing, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3)
