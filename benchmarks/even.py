"""How evenly films move, and how far they jump at the keyframes, over the benchmark's pairs.

    python benchmarks/even.py benchmarks/pairs/manifest.jsonl -o out/even

Makes a uniform and a perceptually spaced film of each pair (both continue where they were stopped) and prints, with
bootstrap intervals over the pairs:

    unevenness      standard deviation over mean of the distances of neighbours; for even timing: of the speeds, each
                    distance over the time between the middles of the two frames' times on screen
    jump            distance of a keyframe to the frame beside it, over the median distance of the other neighbours;
                    the mean of both ends, with and without the fade of what the autoencoder loses

Distances are 1 - cosine of pocket's CLIP features, which the spacing uses too, and as a check that it does not use,
the root mean square of the pixels' differences after a reduction to 32 x 32.
"""

import argparse
import csv
import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from segue import FilmSettings, Interpolator, Morph
from segue.clip import Clip
from segue.evaluate.manifest import Pair, read_pairs
from segue.fade import Fade
from segue.pictures import to_images, to_tensor
from segue.run import RunFolder
from segue.tree import FrameKey

Steps = NDArray[np.float64]
Distances = Callable[[Sequence[Image.Image]], Steps]
EVEN = FilmSettings(timing="even", hold=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--uniform", type=Path, help="run folders of uniform films by name, such as report/runs/branching"
    )
    parser.add_argument("--limit", type=int, help="only the first pairs")
    arguments = parser.parse_args()
    segue, clip = Interpolator.from_pretrained(), Clip.load()
    networks: dict[str, Distances] = {"pocket's CLIP": lambda p: clip_steps(clip, p), "pixels": pixel_steps}
    rows: list[dict[str, Any]] = []
    for pair in read_pairs(arguments.pairs)[: arguments.limit]:
        uniform = made(segue, pair, (arguments.uniform or arguments.output / "uniform") / pair.name)
        spaced = made(segue, pair, arguments.output / "perceptual" / pair.name, spacing="perceptual")
        plain = unfaded(segue, uniform)
        for name, steps_of in networks.items():
            uniform_steps, unfaded_steps = steps_of(uniform.frames), steps_of(plain)
            rows.append(
                {
                    "pair": pair.name,
                    "network": name,
                    "uniform": unevenness(uniform_steps),
                    "perceptual": unevenness(steps_of(spaced.frames)),
                    "even timing": unevenness(uniform_steps / middle_times(uniform)),
                    "jump without fade": jump(unfaded_steps),
                    "jump with fade": jump(uniform_steps),
                }
            )
        print(pair.name, flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "even.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for name in networks:
        Console(width=110).print(table(name, [row for row in rows if row["network"] == name]))


def made(segue: Interpolator, pair: Pair, output: Path, **settings: Any) -> Morph:
    """A film of a pair at the defaults; one that is finished is taken as it is."""
    if (output / "state.json").exists():
        return Morph(output)
    prompts = [text for text in (pair.prompt_a, pair.prompt_b) if text]
    return segue(pair.a, pair.b, prompt=prompts, pose="off", output=output, **settings)


def unfaded(segue: Interpolator, morph: Morph) -> list[Image.Image]:
    """The film's frames as the decoder gives them, without the fade."""
    with RunFolder(morph.path) as run, segue.backbone.evaluating():
        frames_made = (run.read("state.json") or {})["frames"]
        recipes = {FrameKey.at(Fraction(f["place"])): f["recipe"] for f in frames_made if not f["keyframe"]}
        none = Fade({}, 0.0)
        frames = []
        for key, frame in zip(morph.keys, morph.frames, strict=True):
            latent = run.latent(recipes[key]) if key in recipes else None
            image = to_tensor([frame])[0] if latent is None else none(key, segue.backbone.decode(latent[None])[0])
            frames += to_images(image[None])
        return frames


def clip_steps(clip: Clip, pictures: Sequence[Image.Image]) -> Steps:
    """1 - cosine of the CLIP features of neighbours."""
    features = clip.images(list(pictures)).double().numpy()
    return np.asarray(1 - (features[1:] * features[:-1]).sum(1))


def pixel_steps(pictures: Sequence[Image.Image]) -> Steps:
    """Root mean square difference of neighbours, reduced to 32 x 32."""
    small = np.stack([np.asarray(p.resize((32, 32), Image.Resampling.BOX), float) for p in pictures]) / 255
    return np.asarray(np.sqrt(np.square(np.diff(small, axis=0)).mean((1, 2, 3))))


def unevenness(steps: Steps) -> float:
    """Standard deviation over mean."""
    return float(steps.std() / steps.mean())


def middle_times(morph: Morph) -> Steps:
    """The time between neighbours' places in an evenly timed film: from the edges between their times on screen."""
    seconds = np.array([shown for _, shown in morph.timed(dataclasses.replace(EVEN, hold=0.0))])
    seconds[[0, -1]] -= 0.5 / EVEN.fps  # what the ends are held for longer
    edges = np.cumsum(seconds)[:-1]
    times = [0.0]
    for edge in edges:
        times.append(2 * edge - times[-1])
    return np.diff(times)


def jump(steps: Steps) -> float:
    """The mean of the first and the last step, over the median of the others."""
    return float((steps[0] + steps[-1]) / 2 / np.median(steps[1:-1]))


def table(network: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Medians over the pairs with bootstrap intervals, and the share of the uniform film's unevenness."""
    found = Table(title=f"{len(rows)} pairs, distances by {network}: median [95 % interval]")
    names = [name for name in rows[0] if name not in ("pair", "network")]
    for name in names:
        found.add_column(name, justify="right")
    columns = {name: np.array([row[name] for row in rows]) for name in names}
    found.add_row(*(interval(columns[name]) for name in names))
    ratios = [f"{np.median(columns[n] / columns['uniform']):.2f} of uniform" for n in names[:3]]
    found.add_row(*ratios, "", "")
    return found


def interval(values: Steps) -> str:
    """A median with the bootstrap interval of it, over 2,000 draws of the pairs."""
    draws = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(np.median(values[draws], axis=1), (0.025, 0.975))
    return f"{np.median(values):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
