"""A tiny CLIP with random weights, saved as transformers saves one."""

from pathlib import Path

import torch
import transformers
from tiny import tiny_tokenizer

__all__ = ["save_tiny_clip"]


def save_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """Save a CLIP with 16 dimensions that sees 32 x 32 pixels and reads letters; returns the folder."""
    tokenizer = tiny_tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    marks = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = transformers.CLIPConfig(
        text_config={**size, **marks, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.CLIPModel(config)
        for weight in model.parameters():  # far from the tiny initial values, so that vectors differ
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = {"height": 32, "width": 32}
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    return folder
