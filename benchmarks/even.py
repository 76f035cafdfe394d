"""How evenly films move, and how far they jump at the keyframes, over the benchmark's pairs.

    python benchmarks/even.py benchmarks/pairs/manifest.jsonl -o out/even

Makes a uniform and a perceptually spaced film of each pair, with as many frames (both continue where they were
stopped), measures them with the definitions of ``segue evaluate`` (docs/evaluate.md), and answers two questions:

1.  Does the variation of the steps fall by at least half? It is the standard deviation over the mean of the distances
    of neighbours. Of an evenly timed film it is that of the speed: each distance over the time between the middles of
    the two frames' times on screen, weighted by this time; of uniform times that is the same.
2.  Is the jump at the keyframes, the mean of the first and the last distance over the median of the others, at most
    1.5 with the fade of what the autoencoder loses? Without the fade it is measured on the same latents.

Spacing and timing follow the network that ``--spacing`` names, pocket's CLIP; the others only check the result.
"""

import argparse
import csv
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from segue import FilmSettings, Interpolator, Morph
from segue.batch.manifest import Pair, read_pairs
from segue.evaluate.measures import relative_jump, step_variation
from segue.evaluate.statistics import resample_pairs
from segue.method.detail import enlarge
from segue.method.tree import FrameKey
from segue.models.features.distances import Array, SequencePath
from segue.models.features.networks import Network, load_network
from segue.pictures.tensors import to_images, to_tensor
from segue.run.folder import RunFolder

HALF, LARGEST_JUMP = 0.5, 1.5
VARIATIONS = ("uniform", "perceptual", "even timing")
JUMPS = ("jump without fade", "jump with fade")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--uniform", type=Path, help="run folders of uniform films by name, such as report/runs/branching"
    )
    parser.add_argument("--limit", type=int, help="only so many pairs, spread over the manifest")
    parser.add_argument("--spacing", default="pocket", help="the feature network of spacing and timing")
    parser.add_argument(
        "--network", action="append", help="to measure with, also several times; else --spacing and pixels"
    )
    arguments = parser.parse_args()
    interpolator = Interpolator.from_pretrained()
    networks = [load_network(name) for name in dict.fromkeys(arguments.network or [arguments.spacing, "pixels"])]
    pairs = read_pairs(arguments.pairs)
    pairs = pairs[:: max(1, len(pairs) // (arguments.limit or len(pairs)))][: arguments.limit]
    uniform = arguments.uniform or arguments.output / "uniform"
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        begun = time.monotonic()
        even = make(interpolator, pair, uniform / pair.name)
        folder = arguments.output / "perceptual" / pair.name
        spaced = make(interpolator, pair, folder, spacing=f"perceptual:{arguments.spacing}")
        assert len(even) == len(spaced), f"{pair.name}: {len(even)} and {len(spaced)} frames"
        plain = decode_unfaded(interpolator, even)
        for network in networks:
            rows.append(
                {"pair": pair.name, "network": network.name, **measure(network, even, spaced, plain, arguments.spacing)}
            )
        print(f"{pair.name}: {time.monotonic() - begun:.1f} s", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "even.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for network in networks:
        columns = {
            name: np.array([row[name] for row in rows if row["network"] == network.name])
            for name in (*VARIATIONS, *JUMPS)
        }
        Console(width=120).print(table(network.name, columns))
        print("\n".join(answers(columns)), end="\n\n")


def make(interpolator: Interpolator, pair: Pair, output: Path, **settings: Any) -> Morph:
    """A film of a pair at the defaults; one that is finished is taken as it is."""
    if (output / "state.json").exists():
        return Morph(output)
    prompts = [text for text in (pair.prompt_a, pair.prompt_b) if text]
    return interpolator(pair.a, pair.b, prompt=prompts, pose="off", output=output, **settings)


def measure(
    network: Network, uniform: Morph, spaced: Morph, plain: Sequence[Image.Image], spacing: str
) -> dict[str, float]:
    """The variations and jumps of one pair's films; ``plain`` are the uniform film's frames without the fade."""
    path = network.path(list(uniform.frames))
    return {
        "uniform": step_variation(path),
        "perceptual": step_variation(network.path(list(spaced.frames))),
        "even timing": speed_variation(path, middle_times(uniform, spacing)),
        "jump without fade": relative_jump(network.path(plain)),
        "jump with fade": relative_jump(path),
    }


def decode_unfaded(interpolator: Interpolator, morph: Morph) -> list[Image.Image]:
    """The film's frames as the decoder gives them, without the fade."""
    with RunFolder(morph.path) as run, interpolator.backbone.evaluating():
        frames_made = (run.read("state.json") or {})["frames"]
        cache_keys = {FrameKey.at(Fraction(f["place"])): f["cache_key"] for f in frames_made if not f["keyframe"]}
        frames = []
        for key, frame in zip(morph.keys, morph.frames, strict=True):
            latent = run.latent(cache_keys[key]) if key in cache_keys else None
            shown = to_tensor([frame])[0]
            decoded = None if latent is None else interpolator.backbone.decode(latent[None])[0]
            image = shown if decoded is None else enlarge(decoded, shown.shape[1:])
            frames += to_images(image[None])
        return frames


def middle_times(morph: Morph, spacing: str) -> Array:
    """The time between neighbours' places in an evenly timed film: from the edges between their times on screen."""
    seconds = np.array([shown for _, shown in morph.screen_times(FilmSettings(easing=f"even:{spacing}", hold=0.0))])
    edges = np.cumsum(seconds)[:-1]
    times = [0.0]
    for edge in edges:
        times.append(2 * edge - times[-1])
    return np.diff(times)


def speed_variation(path: SequencePath, times: Array) -> float:
    """Standard deviation over mean of the speed, each step's weighted by its time."""
    speeds, mean = path.steps / times, path.steps.sum() / times.sum()
    return float(np.sqrt((times * np.square(speeds - mean)).sum() / times.sum()) / mean)


def table(network: str, columns: dict[str, Array]) -> Table:
    """Medians over the pairs with bootstrap intervals, and of the shares of the uniform film's variation."""
    pairs = len(columns["uniform"])
    found = Table(title=f"{pairs} pairs, distances by {network}: median over the pairs [95 % interval]")
    for name in columns:
        found.add_column(name, justify="right")
    found.add_row(*(interval(values) for values in columns.values()))
    shares = [interval(columns[name] / columns["uniform"]) for name in VARIATIONS[1:]]
    found.add_row("of uniform:", *shares, "", "")
    return found


def answers(columns: dict[str, Array]) -> list[str]:
    """What the benchmark was made to find out, in words."""
    lines = []
    for name in VARIATIONS[1:]:
        shares = columns[name] / columns["uniform"]
        fallen = "falls by at least half" if np.median(shares) <= HALF else "does not fall by half"
        halved = f"it does in {(shares <= HALF).sum()} of {len(shares)} pairs"
        lines.append(f"1. {name}: the variation of the steps {fallen} (median share {np.median(shares):.3f}); {halved}")
    before, after = (np.median(columns[name]) for name in JUMPS)
    held = "is" if after <= LARGEST_JUMP else "is not"
    lines.append(
        f"2. the jump at the keyframes {held} within {LARGEST_JUMP} of the median distance: "
        f"{after:.3f} with the fade, {before:.3f} without (medians over the pairs)"
    )
    return lines


def interval(values: Array) -> str:
    """A median over the pairs with its bootstrap interval."""
    low, high = np.quantile(np.median(values[resample_pairs(len(values))], axis=1), (0.025, 0.975))
    return f"{np.median(values):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
