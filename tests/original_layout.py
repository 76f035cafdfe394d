"""Tiny checkpoints of the true classes, and their weights in the layout of the original releases.

The layout is what single files have: the UNet as numbered blocks, the VAE's levels counted from the finest, attention
of OpenCLIP with one matrix for queries, keys and values.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny import tiny_pipe
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from segue.models.header import Family
from segue.models.single_file import clip_tokenizer

__all__ = ["original", "tiny_family", "vae_keys"]

Weights = dict[str, Tensor]
CROSS, PLAIN = "CrossAttn", ""


def tiny_family(family: Family, prediction_type: Any = "epsilon", seed: int = 0) -> Any:
    """A pipe of a family with random weights that float16 and bfloat16 hold exactly; it has CLIP's own tokenizer."""
    pipe = tiny_pipe(prediction_type, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pads = {"v1": "<|endoftext|>", "v2": "!", "xl": "<|endoftext|>"}
        parts = dict(pipe.components) | {"tokenizer": clip_tokenizer(pads[family])}
        parts["text_encoder"] = _text_encoder(32, "gelu" if family == "v2" else "quick_gelu")
        if family == "v2":
            parts["unet"] = _unet((16, 16, 16, 32), (CROSS, CROSS, CROSS, PLAIN), layers_per_block=2)
        if family == "xl":
            for name in ("safety_checker", "feature_extractor", "image_encoder"):
                del parts[name]
            parts |= {"tokenizer_2": clip_tokenizer("!"), "text_encoder_2": _text_encoder(64, "gelu", projection=True)}
            parts["unet"] = _unet(
                (16, 32),
                (PLAIN, CROSS),
                transformer_layers_per_block=(1, 2),
                cross_attention_dim=32 + 64,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 64,
            )
    kind: Any = StableDiffusionXLPipeline if family == "xl" else StableDiffusionPipeline
    pipe = kind(**parts) if family == "xl" else kind(**parts, requires_safety_checker=False)
    for network in pipe.components.values():
        if isinstance(network, torch.nn.Module):
            network.eval()
            for weight in network.parameters():
                weight.data = weight.data.bfloat16().half().float()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _text_encoder(width: int, act: str, projection: bool = False) -> Any:
    """A text encoder with CLIP's vocabulary."""
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return kind(
        CLIPTextConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            hidden_act=act,
            projection_dim=width,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
        )
    )


def _unet(widths: tuple[int, ...], attention: tuple[str, ...], **options: Any) -> UNet2DConditionModel:
    """A UNet with linear projections."""
    return UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": widths,
            "down_block_types": tuple(f"{kind}DownBlock2D" for kind in attention),
            "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(attention)),
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
            "use_linear_projection": True,
            **options,
        }
    )


def original(pipe: Any, family: Family) -> Weights:
    """The weights of a pipe in the original layout."""
    found = {f"model.diffusion_model.{key}": value for key, value in _unet_keys(pipe.unet).items()}
    found |= {f"first_stage_model.{key}": value for key, value in vae_keys(pipe.vae).items()}
    if family == "v2":
        return found | _open_clip(pipe.text_encoder, "cond_stage_model.model.")
    if family == "v1":
        return found | _clip(pipe.text_encoder, "cond_stage_model.transformer.text_model.")
    found |= _clip(pipe.text_encoder, "conditioner.embedders.0.transformer.text_model.")
    return found | _open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model.")


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
HEAD = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _unet_keys(unet: UNet2DConditionModel) -> Weights:
    """The UNet: blocks are numbered through, with the attention second in each and the resampling last."""
    layers = unet.config.layers_per_block
    found = {}
    for key, value in unet.state_dict().items():
        name = key
        for ours, theirs in HEAD.items():
            name = re.sub(rf"^{ours}\.", f"{theirs}.", name)
        if match := re.match(
            r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key
        ):
            way, block, part, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
            has_attention = any(k.startswith(f"{way}_blocks.{block}.attentions") for k in unet.state_dict())
            if way == "down":
                number = 1 + block * (layers + 1) + (layers if part == "downsamplers" else layer)
                place = {"resnets": "0", "attentions": "1", "downsamplers": "0"}[part]
                rest = rest.replace("conv.", "op.", 1) if part == "downsamplers" else rest
                name = f"input_blocks.{number}.{place}.{rest}"
            else:
                number = block * (layers + 1) + (layers if part == "upsamplers" else layer)
                place = {"resnets": "0", "attentions": "1", "upsamplers": "2" if has_attention else "1"}[part]
                name = f"output_blocks.{number}.{place}.{rest}"
        elif match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", key):
            place = "1" if match[1] == "attentions" else str(2 * int(match[2]))
            name = f"middle_block.{place}.{match[3]}"
        if ".resnets." in key:
            for ours, theirs in RESNET.items():
                name = re.sub(rf"\.{ours}\.", f".{theirs}.", name)
        found[name] = value
    assert len(found) == len(unet.state_dict())
    return found


VAE = (
    (r"\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r".down.\1.block.\2."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.(\d+)\.", r".up.\1.block.\2."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
    (r"attn_1\.group_norm", "attn_1.norm"),
    (r"attn_1\.to_([qkv])\.", r"attn_1.\1."),
    (r"attn_1\.to_out\.0\.", "attn_1.proj_out."),
)


def vae_keys(vae: AutoencoderKL) -> Weights:
    """The VAE: attention as convolutions of one pixel; the decoder's levels are counted from the finest."""
    last = len(vae.config.block_out_channels) - 1
    found = {}
    for key, value in vae.state_dict().items():
        name = key
        for ours, theirs in VAE:
            name = re.sub(ours, theirs, name)
        name = re.sub(r"\.up\.(\d+)\.", lambda level: f".up.{last - int(level[1])}.", name)
        is_matrix = ".attn_1." in name and value.ndim == 2
        found[name] = value[:, :, None, None] if is_matrix else value
    return found


def _clip(encoder: Any, prefix: str) -> Weights:
    """OpenAI's text encoder, whose names are those of transformers."""
    found = {prefix + key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    return found | {f"{prefix}embeddings.position_ids": torch.arange(77)[None]}  # as old files have it


BLOCKS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _open_clip(encoder: Any, prefix: str) -> Weights:
    """OpenCLIP's text encoder, and what its files hold beside it."""
    weights: Mapping[str, Tensor] = {k.removeprefix("text_model."): v for k, v in encoder.state_dict().items()}
    found = {
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "ln_final.weight": weights["final_layer_norm.weight"],
        "ln_final.bias": weights["final_layer_norm.bias"],
        "logit_scale": torch.tensor(1.0),
    }
    projection = weights.get("text_projection.weight")
    found["text_projection"] = torch.eye(encoder.config.hidden_size) if projection is None else projection.T
    for key, value in weights.items():
        if match := re.match(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", key):
            layer, part, kind = match.groups()
            block = f"transformer.resblocks.{layer}"
            if part == "self_attn.q_proj":
                three = [weights[f"encoder.layers.{layer}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
                found[f"{block}.attn.in_proj_{kind}"] = torch.cat(three)
            elif part in BLOCKS:
                found[f"{block}.{BLOCKS[part]}.{kind}"] = value
    return {prefix + key: value.contiguous() for key, value in found.items()}
