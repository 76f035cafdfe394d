"""How much ranking for "cat" against "dog" raises the CLIP margin of a film's middle frames.

Cat-dog films are made with one candidate a frame and with ranked candidates, from the same seeds. The margin of a
frame is the ranking's own score; the mean over the films' middle frames (a quarter to three quarters of the way) and
over the pairs of pictures is one value a seed, and the interval is that of the paired gain over seeds.

The ranker judges its own choice here. As a weak check that the gain is no mere fit to its pixels, the margin is also
measured on the frames mirrored, and on their middle 80 percent, which the ranker never saw.

    python benchmarks/ranking.py --seeds 20
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from segue import Interpolator
from segue.batch.manifest import Pair, read_pairs
from segue.engine.rank import Judge
from segue.evaluate.statistics import mean_interval, paired_interval
from segue.files import write_json
from segue.models.clip import Clip

PAIRS = Path(__file__).with_name("cat-dog") / "manifest.jsonl"
KEPT = 0.8  # of each side, in the cropped check


def crop(picture: Image.Image) -> Image.Image:
    """The middle of a picture, at the picture's size."""
    width, height = picture.size
    x, y = round(width * (1 - KEPT) / 2), round(height * (1 - KEPT) / 2)
    return picture.crop((x, y, width - x, height - y)).resize(picture.size, Image.Resampling.BICUBIC)


VIEWS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as ranked": lambda picture: picture,
    "mirrored": ImageOps.mirror,
    "cropped": crop,
}


def main() -> None:
    arguments = parse_arguments()
    interpolator = Interpolator.from_pretrained(arguments.model, dtype=arguments.dtype, device=arguments.device)
    clip = Clip.load(arguments.ranker)
    judge = Judge(clip, arguments.rank_for, arguments.rank_against)
    pairs = read_pairs(arguments.pairs)
    ranking = {
        "candidates": arguments.candidates,
        "rank_for": tuple(arguments.rank_for),
        "rank_against": tuple(arguments.rank_against),
        "ranker": arguments.ranker,
    }
    keyframes = [judge([Image.open(path).convert("RGB") for path in (pair.a, pair.b)]) for pair in pairs]
    print(json.dumps({"keyframes": keyframes}), flush=True)
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        row: dict[str, Any] = {"seed": seed}
        for kind, options in (("unranked", {}), ("ranked", ranking)):
            begun = time.perf_counter()
            frames = [film(interpolator, pair, arguments.num_frames, seed, options) for pair in pairs]
            row[f"{kind}_seconds"] = (time.perf_counter() - begun) / len(pairs)
            row[kind] = {
                view: float(np.mean([judge([change(f) for f in middle]) for middle in frames]))
                for view, change in VIEWS.items()
            }
        rows.append(row)
        print(json.dumps(row), flush=True)
    results = {
        "model": arguments.model or "pocket",
        "num_frames": arguments.num_frames,
        **ranking,
        "keyframes": keyframes,
        "seeds": rows,
        "gains": gains(rows),
    }
    if arguments.output:
        write_json(arguments.output, results)
    print(table(rows, results["gains"]))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or hub name; pocket if not given")
    parser.add_argument("--dtype")
    parser.add_argument("--device")
    parser.add_argument("--ranker", help="the CLIP that ranks; pocket's own if not given")
    parser.add_argument("--pairs", type=Path, default=PAIRS, help="a manifest of pairs")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--num-frames", type=int, default=5)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--rank-for", nargs="+", default=["cat", "cat face"])
    parser.add_argument("--rank-against", nargs="+", default=["dog", "dog face"])
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    return parser.parse_args()


def film(
    interpolator: Interpolator, pair: Pair, num_frames: int, seed: int, options: dict[str, Any]
) -> list[Image.Image]:
    """The middle frames of a film of a pair."""
    morph = interpolator(pair.a, pair.b, num_frames=num_frames, seed=seed, prompt=pair.prompts or (), **options)
    return [f for f, key in zip(morph.frames, morph.keys, strict=True) if 0.25 <= key.position <= 0.75]


def gains(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For each view the margins of both kinds, and the paired gain over seeds with its 95 % interval."""
    found = {}
    for view in VIEWS:
        ranked, unranked = (np.array([row[kind][view] for row in rows]) for kind in ("ranked", "unranked"))
        found[view] = {
            **asdict(paired_interval(ranked, unranked)),
            "ranked": mean_interval(ranked).value,
            "unranked": mean_interval(unranked).value,
            "seeds_with_a_gain": int((ranked > unranked).sum()),
        }
    return found


def table(rows: Sequence[dict[str, Any]], found: dict[str, dict[str, float]]) -> str:
    """The gains as Markdown."""
    lines = [
        "| margin | unranked | ranked | gain (95 % interval over seeds) | spread of the gain | seeds with a gain |",
        "|---|---|---|---|---|---|",
    ]
    for view, gain in found.items():
        lines.append(
            f"| {view} | {gain['unranked']:.4f} | {gain['ranked']:.4f} | {gain['value']:.4f} ({gain['low']:.4f} to "
            f"{gain['high']:.4f}) | {gain['spread']:.4f} | {gain['seeds_with_a_gain']} of {len(rows)} |"
        )
    seconds = [float(np.mean([row[f"{kind}_seconds"] for row in rows])) for kind in ("unranked", "ranked")]
    lines += ["", f"{seconds[0]:.1f} s a film unranked, {seconds[1]:.1f} s ranked"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
