"""A pipe of Stable Diffusion 2.1's true shape with random weights: speed and memory do not depend on them."""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import tiny_pipe

__all__ = ["stable_diffusion_21"]


def stable_diffusion_21(dtype: torch.dtype) -> StableDiffusionPipeline:
    """A pipe of Stable Diffusion 2.1's true shape with random weights, made in its precision at once."""
    tokenizer = tiny_pipe().tokenizer
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_head_dim=(5, 10, 20, 20),
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=23,
                num_attention_heads=16,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    torch.manual_seed(0)
    networks = [_fill(network, dtype) for network in (vae, text, unet)]
    return StableDiffusionPipeline(
        networks[0], networks[1], tokenizer, networks[2], scheduler, None, None, requires_safety_checker=False
    )


def _fill(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A network that has no memory yet, with small random weights in a precision."""
    network = network.to_empty(device="cpu").to(dtype).eval()
    for name, weight in network.named_parameters():
        nn.init.normal_(weight, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.02)
    for name, buffer in network.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return network
