"""What alignment and detail change: films of the benchmark's pairs, measured at one size, side by side.

Each variant is a set of settings under which every pair is made; folders of runs can be measured as well, such as those
of an older version. All frames are measured at 128 x 128, so that films of different sizes compare:

    sharp     sharpness of the frames in between over that of their keyframes (segue.evaluate.measures)
    cover     mean of |area of the foreground / the keyframes' blended areas - 1|; a double exposure is off by 0.23
    breaks    breaks of order; jump: over the median step; ppl: path length; by pocket's CLIP
    kid       kernel distance to the keyframes of other pairs

Run: `python -m benchmarks.first_film OUTPUT [--variants aligned interpolate ...] [--runs NAME=FOLDER ...]`.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segue.engine.interpolator import Interpolator
from segue.evaluate import measures
from segue.evaluate.statistics import paired_interval
from segue.models.clip import Clip
from segue.models.features.distances import Array, path_of_features

PAIRS = Path(__file__).parent / "pairs"
SIZE = 128
FOREGROUND = 0.1  # of the range of values, from the background's
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "aligned": {},
    "unaligned": {"align": False},
    "no detail": {"detail": 0.0},
    "interpolate": {"scheme": "interpolate"},
    "interpolate, unaligned": {"scheme": "interpolate", "align": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="where films go, a folder for each variant; what is there is kept")
    parser.add_argument("--variants", nargs="*", default=[*VARIANTS], choices=[*VARIANTS])
    parser.add_argument("--settings", type=json.loads, default={}, help="more settings, as JSON, for every variant")
    parser.add_argument("--runs", nargs="*", default=[], metavar="NAME=FOLDER", help="folders of runs to measure")
    parser.add_argument("--every", type=int, default=1, help="only each n-th pair")
    parser.add_argument("--sheets", action="store_true", help="sheets of all films, and of the worst ten, in OUTPUT")
    options = parser.parse_args()
    pairs = [json.loads(line) for line in (PAIRS / "manifest.jsonl").read_text().splitlines()][:: options.every]
    names, clip = [pair["name"] for pair in pairs], Clip.load()
    folders = {name: options.output / name for name in options.variants}
    for name, folder in folders.items():
        begun = time.perf_counter()
        make(pairs, folder, {**VARIANTS[name], **options.settings})
        print(f"{name}: {time.perf_counter() - begun:.0f} s")
    folders |= {name: Path(folder) for name, _, folder in (text.partition("=") for text in options.runs)}
    found = {name: [measure(folder / pair, clip) for pair in names] for name, folder in folders.items()}
    print(f"{'':26}" + "".join(f"{column:>8}" for column in COLUMNS) + f"{'kid':>10}")
    for name, films in found.items():
        means = [float(np.nanmean([film[column] for film in films])) for column in COLUMNS]
        features = np.stack([film["features"] for film in films])
        kid = measures.kernel_distance_of_pairs(features[:, 1:-1], features[:, [0, -1]])
        print(f"{name:26}" + "".join(f"{value:8.3f}" for value in means) + f"{kid:10.5f}")
    first, *others = found
    for name in others:
        print(f"{first} less {name}, over the same pairs, with 95 % intervals:")
        for column in COLUMNS:
            one, other = (np.array([film[column] for film in found[which]]) for which in (first, name))
            apart = paired_interval(one, other)
            print(f"  {column:8}{apart.value:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})")
    for name, folder in folders.items():
        worst = sorted(zip([film["cover"] for film in found[name]], names, strict=True), reverse=True)[:10]
        print(f"{name}, cover farthest off: " + ", ".join(f"{pair} {off:.2f}" for off, pair in worst))
        if options.sheets:
            sheet([folder / pair for pair in names], columns=2).save(options.output / f"{name}.png")
            sheet([folder / pair for _, pair in worst]).save(options.output / f"{name}, worst.png")
    if options.sheets and len(folders) > 1:
        both = [folder / pair for pair in names[:: max(len(names) // 12, 1)] for folder in folders.values()]
        sheet(both).save(options.output / "side by side.png")


COLUMNS = ("sharp", "cover", "breaks", "jump", "ppl")


def make(pairs: Sequence[Mapping[str, Any]], folder: Path, settings: Mapping[str, Any]) -> None:
    """A film of each pair, by what a user gets who gives nothing but two pictures."""
    interpolator = Interpolator.from_pretrained()
    for pair in pairs:
        interpolator(PAIRS / pair["a"], PAIRS / pair["b"], output=folder / pair["name"], num_frames=17, **settings)


def frames_of(run: Path) -> list[Image.Image]:
    """The frames of a run at the size that they are measured at."""
    files = sorted((run / "frames").glob("*.png"))
    return [Image.open(file).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX) for file in files]


def measure(run: Path, clip: Clip) -> dict[str, Any]:
    """The measures of one film."""
    frames = frames_of(run)
    pixels = [np.asarray(frame, np.float64) / 255 for frame in frames]
    places = np.linspace(0, 1, len(frames))
    features = clip.images(frames).double().numpy()
    path = path_of_features(features)
    sharp = np.array([measures.sharpness(frame) for frame in pixels])
    return {
        "sharp": measures.relative_sharpness(sharp, places),
        "cover": coverage(pixels, places),
        "breaks": measures.order_breaks(path),
        "jump": measures.relative_jump(path),
        "ppl": measures.path_length(path),
        "features": features,
    }


def coverage(frames: Sequence[Array], places: Array) -> float:
    """How far the area of the foreground is off the keyframes' blended areas, mean over the frames in between."""
    border = np.concatenate([frames[0][0], frames[0][-1], frames[0][:, 0], frames[0][:, -1]])
    ground = np.median(border, axis=0)
    areas = np.array([(np.abs(frame - ground).max(-1) > FOREGROUND).mean() for frame in frames])
    expected = (1 - places) * areas[0] + places * areas[-1]
    return float(np.abs(areas[1:-1] / expected[1:-1] - 1).mean())


def sheet(runs: Sequence[Path], columns: int = 1, side: int = 96) -> Image.Image:
    """Every second frame of each film, a film a row."""
    rows = [sorted((run / "frames").glob("*.png"))[::2] for run in runs]
    height = -(-len(rows) // columns)
    across = len(rows[0]) + 1
    picture = Image.new("RGB", (side * (across * columns - 1), side * height), "white")
    for i, row in enumerate(rows):
        for j, file in enumerate(row):
            frame = Image.open(file).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            picture.paste(frame, (side * (j + across * (i // height)), side * (i % height)))
    return picture


if __name__ == "__main__":
    main()
