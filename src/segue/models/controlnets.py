"""ControlNets: what they add to the UNet, each sample with its own strength.

Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023, arXiv 2302.05543.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from segue.errors import SegueError
from segue.models.families import family_of

__all__ = ["check_fit", "residuals"]


def check_fit(controlnet: Any, pipe: Any, name: str, model: str) -> None:
    """Raise SegueError if a network is not a ControlNet, or one for another kind of checkpoint than a pipe's.

    Args:
        controlnet: the network.
        pipe: the pipe whose UNet it shall steer.
        name: what to call the network.
        model: what to call the pipe's checkpoint.
    """
    kind, expected = type(getattr(controlnet, "_orig_mod", controlnet)).__name__, family_of(pipe).controlnet
    if not expected:
        raise SegueError(f"ControlNets of {family_of(pipe).name} are not supported")
    if kind != expected:
        raise SegueError(f"a ControlNet of {family_of(pipe).name} is a {expected} of diffusers, not a {kind}")
    if misfit := (_misfit if expected == "ControlNetModel" else _misfit_of_flow)(controlnet.config, pipe, model):
        raise SegueError(f"the ControlNet {name} is for another model: its {misfit}")


def _misfit(theirs: Any, pipe: Any, model: str) -> str:
    """What of a ControlNet's configuration does not fit a pipe; "" where all fits."""
    ours = pipe.unet.config
    if ours.cross_attention_dim != theirs.cross_attention_dim:
        return f"text is {theirs.cross_attention_dim} wide, {model}'s {ours.cross_attention_dim}"
    for field in ("block_out_channels", "layers_per_block", "in_channels"):
        if _per_block(theirs[field], ours) != _per_block(ours[field], ours):
            return f"{field} is {theirs[field]}, {model}'s {ours[field]}"
    scale = 2 ** (len(theirs.conditioning_embedding_out_channels) - 1)
    if scale != pipe.vae_scale_factor:
        return f"images are {scale} times as large as latents, {model}'s {pipe.vae_scale_factor} times"
    return ""


def _misfit_of_flow(theirs: Any, pipe: Any, model: str) -> str:
    """What of the configuration of a transformer's ControlNet does not fit a pipe; "" where all fits."""
    ours = pipe.transformer.config
    for field in ("in_channels", "num_attention_heads", "attention_head_dim"):
        if theirs[field] != ours[field]:
            return f"{field} is {theirs[field]}, {model}'s {ours[field]}"
    if theirs.get("conditioning_embedding_channels") is not None:
        return "conditions are pictures, and not latents (as XLabs' are)"
    if theirs.get("guidance_embeds") and not ours.get("guidance_embeds"):
        return f"guidance is embedded, {model}'s is not"
    return ""


def _per_block(value: Any, config: Any) -> list[int]:
    """A setting of a network's blocks, which may be one number for all."""
    return list(value) if isinstance(value, list | tuple) else [value] * len(config.block_out_channels)


def residuals(
    x: Tensor, t: Tensor, text: Tensor, added: dict[str, Any] | None, controls: Sequence[tuple[Any, Tensor, Tensor]]
) -> tuple[list[Tensor] | None, Tensor | None]:
    """What the ControlNets add to the UNet's skip connections and to its middle, summed; None if there is none.

    A ControlNet takes one strength for a batch, so each sample's is applied to what it returns.

    Args:
        x: noisy latents, (B, C, h, w).
        t: their timesteps, (B,).
        text: embeddings, (B, L, D).
        added: what the UNet takes beside text, by diffusers' names.
        controls: ControlNets, each with its images (B, 3, H, W) in its own dtype and its scales (B,).
    """
    down: list[Tensor] | None = None
    middle: Tensor | None = None
    for network, image, scale in controls:
        parts, last = network(
            x.to(image.dtype),
            t,
            encoder_hidden_states=text.to(image.dtype),
            controlnet_cond=image,
            added_cond_kwargs=added if network.config.addition_embed_type else None,
            return_dict=False,
        )
        strength = scale.to(x.dtype)[:, None, None, None]
        parts, last = [part.to(x.dtype) * strength for part in parts], last.to(x.dtype) * strength
        down = parts if down is None else [a + b for a, b in zip(down, parts, strict=True)]
        middle = last if middle is None else middle + last
    return down, middle
