"""Tiny real pipes of the flow-matching families: random weights, the same for the same seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tiny import VAE, text_config, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import pixel_unshuffle
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from segue.models.flux import pack

__all__ = ["FAMILIES", "Tiny"]


CHAT = "{% for m in messages %}{{ m.content if m.content is string else m.content[0].text }}|{% endfor %}"
LLM = {  # a language model of width 8
    "vocab_size": 100,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True)
class Tiny:
    """A family's tiny pipe.

    Attributes:
        make: makes it, by a seed.
        latents: latents (B, C, h, w) as the pipe's own call takes them.
        options: what its call is given beside prompts, sigmas and latents, for a guidance scale.
    """

    make: Callable[[int], Any]
    latents: Callable[[Tensor], Tensor] = lambda z: z
    options: Callable[[float], Mapping[str, Any]] = lambda scale: {"guidance_scale": scale}


def _of_letters(length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of letters, with a mark at the end of a text."""
    letters = ["<pad>", "</s>", "<unk>", *(chr(code) for code in range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=length,
        chat_template=CHAT,
    )


def _t5(width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=100, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=4, dropout_rate=0.0)
    )


def _vae(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        **{**VAE, "latent_channels": channels}, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1
    )


def _whole(pipe: Any) -> Any:
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _sd3(seed: int) -> Any:
    clip = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _whole(
            StableDiffusion3Pipeline(
                transformer=SD3Transformer2DModel(
                    sample_size=8,
                    patch_size=2,
                    in_channels=4,
                    out_channels=4,
                    num_layers=2,
                    attention_head_dim=8,
                    num_attention_heads=4,
                    joint_attention_dim=32,
                    caption_projection_dim=32,
                    pooled_projection_dim=48,
                    pos_embed_max_size=16,
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=_vae(4),
                text_encoder=CLIPTextModelWithProjection(text_config(clip, 16)),
                tokenizer=clip,
                text_encoder_2=CLIPTextModelWithProjection(text_config(clip, 16)),
                tokenizer_2=tiny_tokenizer(),
                text_encoder_3=_t5(32),
                tokenizer_3=_of_letters(256),
            )
        )


def _flux(seed: int, guidance: bool) -> Any:
    clip = tiny_tokenizer()
    shifts = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _whole(
            FluxPipeline(
                transformer=FluxTransformer2DModel(
                    patch_size=1,
                    in_channels=16,
                    num_layers=1,
                    num_single_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    pooled_projection_dim=32,
                    guidance_embeds=guidance,
                    axes_dims_rope=(4, 6, 6),
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(**(shifts if guidance else {"shift": 1.0})),
                vae=_vae(4),
                text_encoder=CLIPTextModel(text_config(clip, 32)),
                tokenizer=clip,
                text_encoder_2=_t5(32),
                tokenizer_2=_of_letters(512),
            )
        )


def _chroma(seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _whole(
            ChromaPipeline(
                transformer=ChromaTransformer2DModel(
                    in_channels=16,
                    num_layers=1,
                    num_single_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    axes_dims_rope=(4, 6, 6),
                    approximator_num_channels=16,
                    approximator_hidden_dim=32,
                    approximator_layers=1,
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=_vae(4),
                text_encoder=_t5(32),
                tokenizer=_of_letters(512),
            )
        )


def _flux2(seed: int, pipe: Any, **options: Any) -> Any:
    """FLUX.2, whose text encoders are as deep as the pipe's choice of their layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLFlux2(**VAE)
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2)
        if pipe is Flux2Pipeline:
            vision = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
            config = Mistral3Config(
                text_config={"model_type": "mistral", "num_hidden_layers": 30, **LLM},
                vision_config={"model_type": "pixtral", "head_dim": 4, **vision},
            )
            encoder: Any = Mistral3ForConditionalGeneration(config)
        else:
            encoder = Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=27, **LLM))
        return _whole(
            pipe(
                transformer=Flux2Transformer2DModel(
                    in_channels=16,
                    num_layers=1,
                    num_single_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=24,
                    timestep_guidance_channels=16,
                    axes_dims_rope=(4, 4, 4, 4),
                    guidance_embeds=pipe is Flux2Pipeline,
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
                vae=vae,
                text_encoder=encoder,
                tokenizer=_of_letters(512),
                **options,
            )
        )


def _patches(z: Tensor) -> Tensor:
    """Latents (B, C, h, w) as FLUX.2's pipes take them, (B, 4 C, h / 2, w / 2)."""
    return pixel_unshuffle(z, 2)


LANGUAGE: Mapping[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
SEEING: Mapping[str, Any] = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}


def _qwen_image(seed: int) -> Any:
    shifts = {"use_dynamic_shifting": True, "max_image_seq_len": 8192, "max_shift": 0.9, "shift_terminal": 0.02}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _whole(
            QwenImagePipeline(
                transformer=QwenImageTransformer2DModel(
                    in_channels=16,
                    out_channels=4,
                    num_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=16,
                    axes_dims_rope=(4, 6, 6),
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(**shifts),
                vae=AutoencoderKLQwenImage(
                    base_dim=8,
                    z_dim=4,
                    dim_mult=[1, 1, 2, 2],
                    num_res_blocks=1,
                    latents_mean=[0.1, -0.2, 0.3, 0.0],
                    latents_std=[1.5, 0.5, 2.0, 1.0],
                ),
                text_encoder=Qwen2_5_VLForConditionalGeneration(
                    Qwen2_5_VLConfig(
                        text_config={**LANGUAGE, "rope_parameters": rope},
                        vision_config={**SEEING, "out_hidden_size": 16},
                    )
                ),
                tokenizer=_of_letters(1100),
            )
        )


def _z_image(seed: int) -> Any:
    tokenizer = _of_letters(512)
    tokenizer.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }}{% endfor %}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _whole(
            ZImagePipeline(
                transformer=ZImageTransformer2DModel(
                    in_channels=4,
                    dim=32,
                    n_layers=2,
                    n_refiner_layers=1,
                    n_heads=2,
                    n_kv_heads=2,
                    cap_feat_dim=16,
                    axes_dims=[4, 6, 6],
                    axes_lens=[128, 32, 32],
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=_vae(4),
                text_encoder=Qwen3Model(Qwen3Config(**LANGUAGE, head_dim=8)),
                tokenizer=tokenizer,
            )
        )


def _sana(seed: int) -> Any:
    blocks = (8, 8, 16, 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _whole(
            SanaPipeline(
                transformer=SanaTransformer2DModel(
                    in_channels=4,
                    out_channels=4,
                    num_attention_heads=2,
                    attention_head_dim=16,
                    num_layers=2,
                    num_cross_attention_heads=2,
                    cross_attention_head_dim=16,
                    cross_attention_dim=32,
                    caption_channels=16,
                    sample_size=8,
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),  # in place of DPM-Solver's, with the same sigmas
                vae=AutoencoderDC(
                    latent_channels=4,
                    attention_head_dim=8,
                    encoder_block_out_channels=blocks,
                    decoder_block_out_channels=blocks,
                    encoder_layers_per_block=(1, 1, 1, 1),
                    decoder_layers_per_block=(1, 1, 1, 1),
                    encoder_qkv_multiscales=((), (), (), ()),
                    decoder_qkv_multiscales=((), (), (), ()),
                    scaling_factor=0.4,
                ),
                text_encoder=Gemma2Model(Gemma2Config(**LANGUAGE, head_dim=8)),
                tokenizer=_of_letters(2048),
            )
        )


FAMILIES: Mapping[str, Tiny] = {
    "sd3": Tiny(_sd3),
    "flux-dev": Tiny(lambda seed: _flux(seed, guidance=True), pack),
    "flux-schnell": Tiny(lambda seed: _flux(seed, guidance=False), pack),
    "chroma": Tiny(_chroma, pack),
    "flux2": Tiny(lambda seed: _flux2(seed, Flux2Pipeline), _patches),
    "flux2-klein": Tiny(lambda seed: _flux2(seed, Flux2KleinPipeline, is_distilled=True), _patches, lambda scale: {}),
    "flux2-klein-base": Tiny(lambda seed: _flux2(seed, Flux2KleinPipeline), _patches),
    "qwen-image": Tiny(_qwen_image, pack, lambda scale: {"true_cfg_scale": scale, "negative_prompt": ""}),
    "z-image": Tiny(_z_image),
    "sana": Tiny(_sana, options=lambda scale: {"guidance_scale": scale, "use_resolution_binning": False}),
}
