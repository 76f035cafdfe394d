"""Tiny real networks in the shape of Stable Diffusion: random weights, the same for the same seed, built at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from segue.method.conditioning import Conditioning, Control

__all__ = [
    "VAE",
    "batch_sizes",
    "text_conditioning",
    "text_config",
    "tiny_controlnet",
    "tiny_pipe",
    "tiny_tokenizer",
    "tiny_xl_pipe",
]


def tiny_pipe(
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon", seed: int = 0
) -> StableDiffusionPipeline:
    """A Stable Diffusion pipe with a latent of 4 channels at an eighth of the size; sizes are multiples of 16.

    The networks are in evaluation mode and float32; the scheduler is DDIM with Stable Diffusion's schedule.
    """
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(text_config(tokenizer, 32))
        vae = AutoencoderKL(**VAE)
        unet = UNet2DConditionModel(**UNET, cross_attention_dim=32)
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=_scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_xl_pipe(
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon", seed: int = 0
) -> StableDiffusionXLPipeline:
    """A Stable Diffusion XL pipe with latents and sizes as above."""
    tokenizers = tiny_tokenizer(), tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(text_config(tokenizers[0], 32))
        text_encoder_2 = CLIPTextModelWithProjection(text_config(tokenizers[1], 48))
        vae = AutoencoderKL(**VAE)
        unet = UNet2DConditionModel(
            **UNET,
            cross_attention_dim=32 + 48,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=6 * 8 + 24,
        )
    pipe = StableDiffusionXLPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        text_encoder_2=text_encoder_2.eval(),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet.eval(),
        scheduler=_scheduler(prediction_type),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


VAE: Any = {
    "block_out_channels": (8, 16, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 128,
}
UNET: Any = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}


def text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        projection_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def tiny_controlnet(pipe: Any, seed: int = 0) -> ControlNetModel:
    """A ControlNet for a tiny pipe; its output layers are random too, so that it has an effect."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        controlnet = ControlNetModel.from_unet(pipe.unet, conditioning_channels=3)
        blocks = [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]
        for layer in [*blocks, controlnet.controlnet_cond_embedding.conv_out]:
            nn.init.normal_(layer.weight, std=0.1)
    return controlnet.eval()


def tiny_tokenizer() -> CLIPTokenizer:
    """A tokenizer of letters: each character is a token, with a mark at the end of a word."""
    letters = sorted({chr(code) for code in range(33, 127)})
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[], model_max_length=77)


@contextmanager
def batch_sizes(network: nn.Module) -> Iterator[list[int]]:
    """The batch size of each call of a network in here."""
    seen: list[int] = []
    handle = network.register_forward_pre_hook(lambda _network, arguments: seen.append(len(arguments[0])))
    try:
        yield seen
    finally:
        handle.remove()


def text_conditioning(text: Tensor, negative_text: Tensor, controls: tuple[Control, ...] = ()) -> Conditioning:
    """The conditioning of a family with one text encoder."""
    return Conditioning({"text": text}, {"text": negative_text}, controls)
