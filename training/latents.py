"""What the UNet is trained on, computed once: latents of all pictures and hidden states of all captions.

Each picture is encoded on white and `VARIANTS - 1` times on a random background, mirrored and zoomed a little. Needs
the finished autoencoder and CLIP, and comes again when they have been trained further.
Run: `python -m training.latents`.
"""

from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from training.augment import Drawings, backgrounds, lay_on, move
from training.clip import build_clip, build_tokenizer, tokenise
from training.composed import build_vae, encode
from training.loop import DEVICE, autocast, generator
from training.store import command, load_checkpoint, save_checkpoint

BATCH = 64 if DEVICE.type == "cpu" else 512
VARIANTS = 3


def main() -> None:
    command(__doc__).parse_args()
    vae = trained_vae().to(DEVICE)
    captions = [""]
    state: dict[str, Any] = {}
    for name in ("icons", "figures"):
        drawings = Drawings(name)
        records, rows = drawings.records, drawings.rows
        checks = [i for i, r in enumerate(records) if r["held_out"]][:500]
        for part, chosen, variants in (("train", rows, VARIANTS), ("check", checks, 1)):
            latents = torch.stack([encode_all(vae, drawings, chosen, variant) for variant in range(variants)], 1)
            first = len(captions)
            captions += [records[i]["caption"] for i in chosen]
            state[f"{name}_{part}"] = latents
            state[f"{name}_{part}_captions"] = torch.arange(first, len(captions))
            state[f"{name}_{part}_rows"] = torch.tensor(chosen)
            if name == "icons" and part == "train":
                state["bare"] = torch.arange(len(captions), len(captions) + len(chosen))
                captions += [records[i]["concept"] for i in chosen]
            print(name, part, tuple(latents.shape), "std", latents.float().std().item(), flush=True)
    distinct = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    state["caption_states"] = hidden_states(text_tower().to(DEVICE), build_tokenizer([]), list(distinct))
    state["caption_of"] = torch.tensor([distinct[caption] for caption in captions])
    state["std"] = state["icons_train"].float().std()
    save_checkpoint("latents", state)


@torch.no_grad()
def encode_all(vae: AutoencoderTiny, drawings: Drawings, rows: list[int], variant: int) -> Tensor:
    """Latents (N, 4, 16, 16), float16, not yet scaled, of drawings on white (variant 0) or on a random background."""
    random = generator(variant)
    parts = []
    for start in range(0, len(rows), BATCH):
        rgba = drawings[rows[start : start + BATCH]]
        behind = torch.ones_like(rgba[:, :3])
        if variant:
            rgba = move(rgba, (0.8, 1.05), 0.06, 0.08, random)
            behind = backgrounds(len(rgba), rgba.shape[-1], random, white=0.3)
        with autocast():
            z = encode(vae, lay_on(rgba, behind).contiguous(memory_format=torch.channels_last))
        parts.append(z.half().cpu())
    return torch.cat(parts)


@torch.no_grad()
def hidden_states(tower: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """The text tower's hidden states (N, TOKENS, width), float16, as Stable Diffusion conditions on them."""
    parts = []
    for start in range(0, len(captions), 256):
        tokens = tokenise(tokenizer, captions[start : start + 256]).to(DEVICE)
        with autocast():
            parts.append(tower(input_ids=tokens).last_hidden_state.half().cpu())
    return torch.cat(parts)


def trained_vae() -> AutoencoderTiny:
    """The autoencoder with its averaged weights."""
    vae = build_vae()
    state = load_checkpoint("vae")
    assert state is not None, "training.vae comes first"
    vae.load_state_dict(state["ema"])
    return vae.eval().to(memory_format=torch.channels_last)


def text_tower() -> CLIPTextModel:
    """CLIP's text tower, which the UNet is conditioned on, as a model of its own."""
    clip = trained_clip()[0]
    tower = CLIPTextModel(clip.config.text_config)
    tower.load_state_dict(clip.text_model.state_dict())
    return tower.eval()


def trained_clip() -> tuple[CLIPModel, CLIPTokenizer]:
    """CLIP with its averaged weights, and its tokenizer."""
    tokenizer = build_tokenizer([])
    clip = build_clip(tokenizer)
    state = load_checkpoint("clip")
    assert state is not None, "training.clip comes first"
    clip.load_state_dict(state["ema"])
    return clip.eval(), tokenizer


if __name__ == "__main__":
    main()
