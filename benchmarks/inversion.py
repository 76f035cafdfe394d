"""How much textual inversion lowers the denoising loss where it was not fitted, and what it costs.

For each pair of pictures the embeddings are fitted from the pair's prompts; then the loss is measured before and after,
on noise and timesteps that the fit never saw: timesteps at the middles of equal parts of the schedule, one noise of its
own for each. Before and after see the same noise, so the interval is that of the paired difference over pairs.

    python benchmarks/inversion.py --learning-rate 1e-2 --iterations 50 --held-out 8
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
from torch import Tensor

from segue.backbone.conditioning import TextConditioning
from segue.backbone.stable_diffusion import StableDiffusion
from segue.evaluate.manifest import Pair, read_pairs
from segue.evaluate.statistics import mean_interval, paired_interval
from segue.files import write_json
from segue.inversion import denoising_loss, invert
from segue.models import loading
from segue.noise import Noise
from segue.pictures import common_size, fit, load
from segue.settings import InversionSettings, MorphSettings, checked, fields
from segue.tensors import to_tensor
from segue.tree import FrameKey

PAIRS = Path(__file__).with_name("pairs") / "manifest.jsonl"
KEYS = (FrameKey(0), FrameKey(1))
HELD_OUT_SEED = 10**6  # far from the seeds of the fits


def main() -> None:
    arguments = parsed()
    settings = checked(MorphSettings, {name: getattr(arguments, name) for name in fields(InversionSettings)})
    backbone = StableDiffusion(loading.load(arguments.model, dtype=arguments.dtype, device=arguments.device))
    pairs = read_pairs(arguments.pairs)
    chosen = pairs[:: max(1, len(pairs) // arguments.count)][: arguments.count]  # from all groups
    rows = []
    for number, pair in enumerate(chosen):
        rows.append(measured(backbone, pair, settings, number, arguments.held_out))
        print(json.dumps(rows[-1]), flush=True)
    results = {
        "model": arguments.model or "pocket",
        "settings": {name: getattr(settings, name) for name in fields(InversionSettings)},
        "held_out": arguments.held_out,
        "pairs": rows,
        **summary(rows),
    }
    if arguments.output:
        write_json(arguments.output, results)
    print(table(results))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or hub name; pocket if not given")
    parser.add_argument("--dtype")
    parser.add_argument("--device")
    parser.add_argument("--pairs", type=Path, default=PAIRS, help="a manifest of pairs")
    parser.add_argument("--count", type=int, default=20, help="how many of the pairs")
    parser.add_argument("--held-out", type=int, default=8, help="held-out timesteps, each with noise of its own")
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    for name, field in fields(InversionSettings).items():
        option = "--" + name.removeprefix("inversion_").replace("_", "-")
        default: Any = 50 if name == "inversion_iterations" else field.default
        if isinstance(default, bool):
            parser.add_argument(option, dest=name, default=default, action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(option, dest=name, default=default, type=type(default), help=field.description)
    return parser.parse_args()


def measured(
    backbone: StableDiffusion, pair: Pair, settings: MorphSettings, seed: int, held_out: int
) -> dict[str, Any]:
    """The held-out losses of a pair before and after its fit, and the fit's seconds."""
    pictures = [load(path) for path in (pair.a, pair.b)]
    size = common_size(pictures, backbone.multiple_of)
    pictures = [fit(picture, size) for picture in pictures]
    latents = backbone.encode(to_tensor(pictures))
    words = backbone.embed(list(pair.prompts or ("", "")), ["", ""])
    begun = time.perf_counter()
    fitted = invert(backbone, latents, words, settings, Noise(seed), KEYS, pictures=pictures).words
    seconds = time.perf_counter() - begun

    def loss(embeddings: Tensor) -> list[float]:
        return held_out_loss(backbone, latents, embeddings, Noise(HELD_OUT_SEED + seed), held_out)

    before, after = loss(words.prompt), loss(fitted.prompt)
    return {
        "pair": pair.name,
        "before": float(np.mean(before)),
        "after": float(np.mean(after)),
        "negative_before": float(np.mean(loss(words.negative))),
        "negative_after": float(np.mean(loss(fitted.negative))),
        "by_timestep": [[float(b), float(a)] for b, a in zip(before, after, strict=True)],
        "seconds": seconds,
    }


def held_out_loss(
    backbone: StableDiffusion, latents: Tensor, embeddings: Tensor, noise: Noise, count: int
) -> list[float]:
    """The loss at each held-out timestep, the mean over the two keyframes."""
    losses = []
    for i in range(count):
        at = backbone.point((i + 0.5) / count)
        eps = torch.stack([noise("held-out", key, step=i, shape=latents.shape[1:]) for key in KEYS])
        with torch.no_grad():
            words = TextConditioning(embeddings, embeddings)
            losses.append(float(denoising_loss(backbone, latents, words, at, eps).mean()))
    return losses


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the pairs and 95 % intervals of the paired differences."""

    def column(name: str) -> Any:
        return np.array([row[name] for row in rows])

    relative = 1 - column("after") / column("before")
    return {
        "before": float(column("before").mean()),
        "after": float(column("after").mean()),
        "fall": asdict(paired_interval(column("before"), column("after"))),
        "relative_fall": asdict(mean_interval(relative)),
        "negative_before": float(column("negative_before").mean()),
        "negative_after": float(column("negative_after").mean()),
        "negative_fall": asdict(paired_interval(column("negative_before"), column("negative_after"))),
        "pairs_with_a_fall": int((relative > 0).sum()),
        "seconds": float(column("seconds").mean()),
    }


def table(results: dict[str, Any]) -> str:
    """The summary as Markdown."""
    lines = ["| embedding | loss before | loss after | fall (95 % interval over pairs) |", "|---|---|---|---|"]
    for name, prefix in (("prompts", ""), ("negative", "negative_")):
        fall = results[f"{prefix}fall"]
        before, after = results[f"{prefix}before"], results[f"{prefix}after"]
        lines.append(
            f"| {name} | {before:.4f} | {after:.4f} | {fall['value']:.4f} ({fall['low']:.4f} to {fall['high']:.4f}) |"
        )
    relative = results["relative_fall"]
    lines += [
        "",
        f"{results['pairs_with_a_fall']} of {len(results['pairs'])} pairs fall; relative fall "
        f"{relative['value']:.1%} ({relative['low']:.1%} to {relative['high']:.1%}); "
        f"{results['seconds']:.1f} s a pair",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
