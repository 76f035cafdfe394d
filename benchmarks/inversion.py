"""Whether textual inversion brings pictures nearer: the loss, reconstructions and middle frames, before and after.

For each pair of pictures the embeddings are fitted from the pair's prompts. Then, under the prompts and under what was
fitted, on noise that the fit never saw:

- the denoising loss, at timesteps at the middles of equal parts of the schedule;
- reconstructions: each keyframe's latent is diffused to a noise level and denoised back; the root mean square distance
  of the decoded picture to the keyframe (values 0 to 1), and 1 - the cosine of pocket's CLIP between the two;
- the middle frame of the pair by branching at that level: 1 - the mean cosine to its two keyframes.

Before and after see the same noise, so an interval is that of the paired difference over pairs.

    python benchmarks/inversion.py --learning-rate 1e-3 --iterations 300 --count 6
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import text_conditioning
from torch import Tensor

from segue.batch.manifest import Pair, read_pairs
from segue.evaluate.statistics import mean_interval, paired_interval
from segue.files import write_json
from segue.method.blend import slerp
from segue.method.conditioning import Conditioning
from segue.method.diffusion import diffuse
from segue.method.noise import Noise
from segue.method.tree import FrameKey
from segue.models import loading
from segue.models.backbone import Sampling
from segue.models.clip import Clip
from segue.models.stable_diffusion import StableDiffusion
from segue.pictures.images import fit, load
from segue.pictures.tensors import to_images, to_tensor
from segue.settings.kinds import InversionSettings, MorphSettings, fields, parse_settings
from segue.settings.presets import preset_settings
from segue.words import inversion
from segue.words.inversion import denoising_loss, invert

PAIRS = Path(__file__).with_name("pairs") / "manifest.jsonl"
KEYS = (FrameKey(0), FrameKey(1))
HELD_OUT_SEED = 10**6  # far from the seeds of the fits
LEVELS = (0.2, 0.5)  # noise levels of reconstructions: pocket's own, and the paper's


def main() -> None:
    arguments = parse_arguments()
    if arguments.draw_from:
        inversion.TIMESTEPS["all"] = tuple(arguments.draw_from)
    values = {name: getattr(arguments, name) for name in fields(InversionSettings)}
    settings = parse_settings(MorphSettings, {**preset_settings("balanced", arguments.model), **values})
    backbone = StableDiffusion(loading.load(arguments.model, dtype=arguments.dtype, device=arguments.device))
    clip = Clip.load()
    pairs = read_pairs(arguments.pairs)
    chosen = pairs[arguments.first :: max(1, len(pairs) // arguments.count)][: arguments.count]  # from all groups
    rows = []
    for number, pair in enumerate(chosen):
        rows.append(measure(backbone, clip, pair, settings, number, arguments.held_out))
        print(json.dumps(rows[-1]), flush=True)
    results = {
        "model": arguments.model or "pocket",
        "settings": values,
        "draw_from": arguments.draw_from,
        "pairs": rows,
        "measures": summary(rows),
        "seconds": float(np.mean([row["seconds"] for row in rows])),
    }
    if arguments.output:
        write_json(arguments.output, results)
    print(table(results))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or hub name; pocket if not given")
    parser.add_argument("--dtype")
    parser.add_argument("--device")
    parser.add_argument("--pairs", type=Path, default=PAIRS, help="a manifest of pairs")
    parser.add_argument("--count", type=int, default=20, help="how many of the pairs")
    parser.add_argument("--first", type=int, default=0, help="the first of the pairs that is taken")
    parser.add_argument("--held-out", type=int, default=8, help="held-out timesteps, each with noise of its own")
    parser.add_argument(
        "--draw-from", type=float, nargs=2, metavar=("LOW", "HIGH"), help="fit at these noise levels only"
    )
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    for name, field in fields(InversionSettings).items():
        option = "--iterations" if name == "inversion" else "--" + name.removeprefix("inversion_").replace("_", "-")
        default: Any = 50 if name == "inversion" else field.default
        if isinstance(default, bool):
            parser.add_argument(option, dest=name, default=default, action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(option, dest=name, default=default, type=type(default), help=field.description)
    return parser.parse_args()


def measure(
    backbone: StableDiffusion, clip: Clip, pair: Pair, settings: MorphSettings, seed: int, held_out: int
) -> dict[str, Any]:
    """Every measure of a pair before and after its fit, and the fit's seconds."""
    pictures = [fit(load(path), (backbone.native_size,) * 2) for path in (pair.a, pair.b)]
    latents = backbone.encode(to_tensor(pictures))
    words = backbone.embed(list(pair.prompts or ("", "")), ["", ""])
    begun = time.perf_counter()
    fitted = invert(backbone, latents, words, settings, Noise(seed), KEYS, pictures=pictures).words
    seconds = time.perf_counter() - begun

    def measure_words(embeddings: Conditioning) -> dict[str, float]:
        noise = Noise(HELD_OUT_SEED + seed)
        found = {"loss": held_out_loss(backbone, latents, embeddings.text, noise, held_out)}
        for level in LEVELS:
            seen = reconstruct(backbone, clip, latents, to_tensor(pictures), embeddings, noise, level, settings)
            found |= {f"{name}, noise {level:g}": value for name, value in seen.items()}
        return found

    return {"pair": pair.name, "before": measure_words(words), "after": measure_words(fitted), "seconds": seconds}


def held_out_loss(backbone: StableDiffusion, latents: Tensor, embeddings: Tensor, noise: Noise, count: int) -> float:
    """The mean loss of the two keyframes over the held-out timesteps."""
    losses = []
    for i in range(count):
        at = backbone.point((i + 0.5) / count)
        eps = torch.stack([noise("held-out", key, step=i, shape=latents.shape[1:]) for key in KEYS])
        with torch.no_grad():
            words = text_conditioning(embeddings, embeddings)
            losses.append(float(denoising_loss(backbone, latents, words, at, eps).mean()))
    return float(np.mean(losses))


def reconstruct(
    backbone: StableDiffusion,
    clip: Clip,
    latents: Tensor,
    keyframes: Tensor,
    words: Conditioning,
    noise: Noise,
    level: float,
    settings: MorphSettings,
    draws: int = 2,
) -> dict[str, float]:
    """How far both keyframes, denoised from a noise level, and the frame in their middle are from the keyframes."""
    at = backbone.point(level)
    sampling = Sampling(num_inference_steps=settings.num_inference_steps, guidance_scale=settings.guidance_scale)
    a, b = words.sample(0), words.sample(1)
    middle = a.blend(b, 0.5)
    given = clip.images(to_images(keyframes))
    found = []
    for i in range(draws):
        left, right = diffuse(latents, noise("reconstruction", KEYS[0], step=i, shape=latents.shape[1:])[None], at)
        z = torch.stack([left, right, slerp(left[None], right[None], 0.5)[0]])
        made = backbone.decode(backbone.denoise(z, Conditioning.stack([a, b, middle]), at, sampling=sampling))
        cosines = clip.images(to_images(made)) @ given.T  # (3, 2)
        rmse = ((made[:2] - keyframes) / 2).square().flatten(1).mean(1).sqrt().mean()
        found.append([float(rmse), 1 - float(cosines[:2].diagonal().mean()), 1 - float(cosines[2].mean())])
    names = ("reconstruction, RMSE", "reconstruction, CLIP", "middle frame, CLIP")
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the pairs and 95 % intervals of the paired falls, by measure."""
    found = {}
    for name in rows[0]["before"]:
        before, after = (np.array([row[when][name] for row in rows]) for when in ("before", "after"))
        found[name] = {
            "before": float(before.mean()),
            "after": float(after.mean()),
            "fall": asdict(paired_interval(before, after)),
            "relative_fall": asdict(mean_interval(1 - after / before)),
            "pairs_with_a_fall": int((after < before).sum()),
        }
    return found


def table(results: dict[str, Any]) -> str:
    """The summary as Markdown."""
    lines = [
        "| measure | before | after | fall (95 % interval over pairs) | pairs with a fall |",
        "|---|---|---|---|---|",
    ]
    for name, found in results["measures"].items():
        fall = found["fall"]
        lines.append(
            f"| {name} | {found['before']:.4f} | {found['after']:.4f} | {fall['value']:.4f} "
            f"({fall['low']:.4f} to {fall['high']:.4f}) | {found['pairs_with_a_fall']} of {len(results['pairs'])} |"
        )
    return "\n".join([*lines, "", f"{results['seconds']:.1f} s a pair"])


if __name__ == "__main__":
    main()
