"""Tiny real networks in the shape of Stable Diffusion: random weights, the same for the same seed, built at once."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from segue.method.conditioning import Conditioning, Control

__all__ = [
    "VAE",
    "batch_sizes",
    "save_image_adapter",
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


CLIP_WIDTH, CLIP_PROJECTION = 32, 24


def save_image_adapter(
    folder: Path, pipe: Any, kind: Literal["plain", "plus", "full"] = "plain", seed: int = 0
) -> Path:
    """Save an IP-Adapter for a tiny pipe, by its published key names, and an image encoder beside it.

    The layers are far from small, so that pictures change what is made.
    """
    wide = pipe.unet.config.cross_attention_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = {"hidden_size": CLIP_WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = CLIPVisionConfig(**size, projection_dim=CLIP_PROJECTION, image_size=32, patch_size=8)
        encoder = CLIPVisionModelWithProjection(config)
        for weight in encoder.parameters():
            nn.init.normal_(weight, std=0.3)
        projection = {"plain": _projection, "plus": _plus_projection, "full": _full_projection}[kind](wide)
        tensors = {f"image_proj.{name}": tensor for name, tensor in projection.items()}
        for i, name in enumerate(pipe.unet.attn_processors):
            if name.endswith("attn2.processor"):
                shape = pipe.unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
                for part in ("to_k_ip", "to_v_ip"):
                    tensors[f"ip_adapter.{i}.{part}.weight"] = torch.randn(shape) * 0.3
    encoder.save_pretrained(folder / "image_encoder")
    save_file(tensors, folder / f"{kind}.safetensors")
    return folder / f"{kind}.safetensors"


def _projection(wide: int) -> dict[str, Tensor]:
    proj = {"proj.weight": torch.randn(4 * wide, CLIP_PROJECTION), "proj.bias": torch.randn(4 * wide)}
    return {**proj, "norm.weight": torch.ones(wide), "norm.bias": torch.zeros(wide)}


def _full_projection(wide: int) -> dict[str, Tensor]:
    shapes = {"proj.0": (CLIP_WIDTH, CLIP_WIDTH), "proj.2": (wide, CLIP_WIDTH)}
    weights = {f"{name}.weight": 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    biases = {f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}
    return {**weights, **biases, "proj.3.weight": torch.ones(wide), "proj.3.bias": torch.zeros(wide)}


def _plus_projection(wide: int) -> dict[str, Tensor]:
    width, heads, tokens = 16, 2, 5

    def linear(outward: int, inward: int) -> Tensor:
        return torch.randn(outward, inward) / math.sqrt(inward)

    def norm(name: str, size: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + 0.1 * torch.randn(size), f"{name}.bias": 0.1 * torch.randn(size)}

    tensors = {
        "latents": torch.randn(1, tokens, width),
        "proj_in.weight": linear(width, CLIP_WIDTH),
        "proj_in.bias": torch.randn(width),
        "proj_out.weight": linear(wide, width),
        "proj_out.bias": torch.randn(wide),
        **norm("norm_out", wide),
    }
    for i in range(4):
        tensors |= {
            **norm(f"layers.{i}.0.norm1", width),
            **norm(f"layers.{i}.0.norm2", width),
            f"layers.{i}.0.to_q.weight": linear(64 * heads, width),
            f"layers.{i}.0.to_kv.weight": linear(2 * 64 * heads, width),
            f"layers.{i}.0.to_out.weight": linear(width, 64 * heads),
            **norm(f"layers.{i}.1.0", width),
            f"layers.{i}.1.1.weight": linear(4 * width, width),
            f"layers.{i}.1.3.weight": linear(width, 4 * width),
        }
    return tensors


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
