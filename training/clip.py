"""Pocket's CLIP: a small text tower (which also conditions the UNet) and image tower, trained to know each other.

A stock `CLIPModel`; pictures are seen at 64 x 64. A batch holds pairs of pictures of one concept in different styles;
a caption is the full one, the concept alone, or one with words dropped, and every picture that a caption fits counts as
right. In most steps the image tower sees a random half of the patches, for half the work (Li et al., 2023, arXiv
2212.00794). Run: `python -m training.clip` (resumes). A UNet that is trained already has to follow, by
`training.latents`, `training.refit` and `training.unet`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from training.augment import backgrounds, lay_on, move
from training.loop import DEVICE, Course, arguments, autocast, course, generator, train
from training.store import CACHE, load_array

HOW = course(
    cpu=Course(minutes=30, batch=128, rate=1e-3, ema=0.995, log_every=25),
    gpu=Course(minutes=2.2, batch=768, rate=1.5e-3, ema=0.998, first=200),
)
FIGURES = 0.12
TOKENS = 32
MERGES = 2400
SIZE = 64
EVALUATE_EVERY = 150 if DEVICE.type == "cpu" else 1000
CANDIDATES = 500
PATCHES = 0.5  # The share of a picture's patches that is seen, except in
WHOLE = 0.25  # this share of the steps.


def main() -> None:
    minutes = arguments(__doc__, HOW.minutes).parse_args().minutes
    torch.manual_seed(0)
    sets = [load_array(name) for name in ("icons", "figures")]
    records = [record for _, rows in sets for record in rows]
    pictures = torch.cat([small(name, stored) for name, (stored, _) in zip(("icons", "figures"), sets, strict=True)])
    pictures = pictures.to(DEVICE)
    tokenizer = build_tokenizer([r["caption"] for r in records if not r["held_out"]])
    model = build_clip(tokenizer).to(DEVICE)
    batches = Batches(records, tokenizer)

    def loss_of(step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        random = generator(step)
        rows, tokens, fits = batches.draw(step)
        seen = picture(pictures[rows], random)
        whole = torch.rand((), generator=random, device=DEVICE) < WHOLE
        with autocast(), nullcontext() if whole else some_patches(model.vision_model.embeddings, PATCHES, random):
            text = model.get_text_features(input_ids=tokens).pooler_output.float()
            image = model.get_image_features(pixel_values=seen).pooler_output.float()
        scale = model.logit_scale.clamp(0, math.log(100)).exp()
        logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        return (cross_entropy(logits, fits) + cross_entropy(logits.T, fits.T)) / 2, {}

    def check() -> None:
        recall = held_out_recall(model, tokenizer, pictures, records)
        print("recall at 1 and 10 among 500 held-out captions:", recall, flush=True)

    train(
        "clip",
        model,
        loss_of,
        HOW,
        minutes,
        decay=0.1,
        no_decay="embedding",
        check=check,
        check_every=EVALUATE_EVERY,
    )


@contextmanager
def some_patches(embeddings: nn.Module, share: float, random: torch.Generator) -> Iterator[None]:
    """The image tower goes on with a random share of the patches, and the token that stands for the whole picture."""

    def choose(_: nn.Module, __: object, tokens: Tensor) -> Tensor:
        chances = torch.rand(tokens.shape[:2], generator=random, device=tokens.device)
        chances[:, 0] = 2  # The first token is the whole.
        kept = chances.topk(1 + round(share * (tokens.shape[1] - 1)), dim=1).indices
        return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))

    hook = embeddings.register_forward_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def cross_entropy(logits: Tensor, fits: Tensor) -> Tensor:
    """Mean over rows of the loss against the fitting columns in equal parts."""
    target = fits / fits.sum(1, keepdim=True)
    return -(target * logits.log_softmax(1)).sum(1).mean()


class Batches:
    """Random rows of the data with tokens of a caption for each, and which captions fit which pictures."""

    def __init__(self, records: list[dict[str, Any]], tokenizer: CLIPTokenizer) -> None:
        self.records, self.tokenizer = records, tokenizer
        trained = [(i, r) for i, r in enumerate(records) if not r["held_out"]]
        self.figures = [i for i, r in trained if "keypoints" in r]
        self.concepts: dict[str, list[int]] = {}
        for i, record in trained:
            if "keypoints" not in record:
                self.concepts.setdefault(record["concept"], []).append(i)
        sizes = np.sqrt([len(rows) for rows in self.concepts.values()])
        self.groups, self.chances = list(self.concepts.values()), sizes / sizes.sum()

    def draw(self, step: int) -> tuple[list[int], Tensor, Tensor]:
        """A step's rows, tokens (B, TOKENS), and fits (B pictures, B captions), 1 where they fit."""
        random = np.random.default_rng(step)
        n_figures = int(HOW.batch * FIGURES)
        rows = random.choice(self.figures, n_figures, replace=False).tolist()
        for group in random.choice(len(self.groups), min(HOW.batch, len(self.groups)), replace=False, p=self.chances):
            members = self.groups[group]
            rows.extend(random.choice(members, min(2, len(members)), replace=False).tolist())
        rows = rows[: HOW.batch]
        captions, bare = [], []
        for row in rows:
            concept, style = self.records[row]["concept"], self.records[row]["style"]
            draw = random.random()
            words = concept.split()
            if draw > 0.8 and len(words) > 1:
                words.pop(random.integers(len(words)))
            captions.append(" ".join(words) + ("" if 0.5 < draw < 0.9 else f", {style}"))
            bare.append(0.5 < draw < 0.9)
        concepts = np.array([self.records[row]["concept"] for row in rows])
        styles = np.array([self.records[row]["style"] for row in rows])
        fits = (concepts[:, None] == concepts) & (np.array(bare) | (styles[:, None] == styles))
        tokens = short(tokenise(self.tokenizer, captions), self.tokenizer)
        return rows, tokens.to(DEVICE), torch.from_numpy(fits).float().to(DEVICE)


def picture(rgba: Tensor, random: torch.Generator) -> Tensor:
    """Pictures (B, 3, SIZE, SIZE) in [-1, 1] of small drawings (B, 4, ...): moved, recoloured, on backgrounds."""
    rgba = rgba.float() / 255
    rgba[:, :3] *= rgba[:, 3:]
    rgba = move(rgba, (0.7, 1.15), 0.12, 0.2, random)
    n, device = len(rgba), rgba.device
    mix = torch.eye(3, device=device) + 0.12 * torch.randn(n, 3, 3, generator=random, device=device)
    rgba[:, :3] = torch.einsum("nij,njhw->nihw", mix, rgba[:, :3])
    x = lay_on(rgba, backgrounds(n, SIZE, random, white=0.5))
    return (x + 0.03 * torch.randn(x.shape, generator=random, device=device)).clamp(-1, 1)


def small(name: str, pictures: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """All pictures of a data set at 64 x 64, uint8 (N, 4, 64, 64); kept in `NAME-64.npy`."""
    path = CACHE / f"{name}-{SIZE}.npy"
    if not path.exists() or len(np.load(path, mmap_mode="r")) != len(pictures):
        parts = []
        for start in range(0, len(pictures), 512):
            part = torch.from_numpy(np.array(pictures[start : start + 512])).permute(0, 3, 1, 2).float()
            part[:, :3] *= part[:, 3:] / 255
            part = F.avg_pool2d(part, 2)
            part[:, :3] /= (part[:, 3:] / 255).clamp(min=1e-3)
            parts.append(part.round().clamp(0, 255).byte().numpy())
        np.save(path, np.concatenate(parts))
    return torch.from_numpy(np.load(path))


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token numbers (len(captions), TOKENS)."""
    found = tokenizer(captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    tokens: Tensor = found.input_ids
    return tokens


def short(tokens: Tensor, tokenizer: CLIPTokenizer) -> Tensor:
    """Tokens without the padding that all captions share; the text tower is causal, so nothing else changes."""
    longest = int((tokens != tokenizer.eos_token_id).sum(1).max()) + 1
    return tokens[:, :longest]


@torch.no_grad()
def held_out_recall(
    model: CLIPModel, tokenizer: CLIPTokenizer, pictures: Tensor, records: list[dict[str, Any]]
) -> tuple[float, float]:
    """Share of held-out icons whose caption is first, and among the first ten, of 500 distinct held-out captions."""
    rows = {r["caption"]: i for i, r in enumerate(records) if r["held_out"] and "keypoints" not in r}
    rows = dict(list(rows.items())[:: max(1, len(rows) // CANDIDATES)][:CANDIDATES])
    rgba = pictures[list(rows.values())].float() / 255
    x = (rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]) * 2 - 1
    with autocast():
        image = model.get_image_features(pixel_values=x).pooler_output.float()
        text = model.get_text_features(input_ids=tokenise(tokenizer, list(rows)).to(DEVICE)).pooler_output.float()
    scores = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    rank = (scores > scores.diagonal()[:, None]).sum(1)
    return (rank < 1).float().mean().item(), (rank < 10).float().mean().item()


def build_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """CLIP's tokenizer with merges learnt from the captions; kept in `tokenizer.json`."""
    path = CACHE / "merges.json"
    if not path.exists():
        learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        learner.normalizer = normalizers.Lowercase()
        split = pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True)
        learner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        trainer = trainers.BpeTrainer(vocab_size=MERGES + 100, end_of_word_suffix="</w>", show_progress=False)
        learner.train_from_iterator(captions, trainer)
        merges = json.loads(learner.to_str())["model"]["merges"]
        path.write_text(json.dumps(merges[:MERGES]))
    merges = [tuple(merge) for merge in json.loads(path.read_text())]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = alphabet + [f"{letter}</w>" for letter in alphabet] + ["".join(merge) for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    words = list(dict.fromkeys(words))
    return CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=merges, model_max_length=TOKENS)


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Pocket's CLIP, fresh."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=256,
    )
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=3,
        image_size=SIZE,
        patch_size=8,
        projection_dim=256,
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=256)
    return CLIPModel(config)


if __name__ == "__main__":
    main()
