"""A zoom by 2 over a morph of a picture with itself, against the plain zoom of the picture.

    python benchmarks/zoom.py benchmarks/pairs/manifest.jsonl --pictures 12 -o out/zoom.csv

Root mean square differences of pixels, 0 to 255, mean over the frames between the keyframes, made without alignment and
detail:

    autoencoder   D(E(x)) against x, for the plainly zoomed pictures x: what no latent diffusion model can fall below
    unmoved       the morph without a zoom against the picture: what the denoiser changes of a picture
    pixel         the morph with a zoom against the plain zoom, moved in pixel space
    ... at 0.001  the same at a noise level at which there is nothing to denoise: the motion's own error
    faded         moved in pixel space, with the detail of the keyframes faded out beside them

The zoom keeps to the autoencoder's error if "faded at 0.001" is not above "autoencoder"; it takes nothing from a
morph if "pixel" is not above "unmoved" by more than that.
"""

import argparse
import csv
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from segue import Interpolator
from segue.batch.manifest import Pair, read_pairs
from segue.engine.keyframes import view
from segue.evaluate.statistics import mean_interval
from segue.method.motion import Motion
from segue.pictures.images import fit, load
from segue.pictures.tensors import to_images, to_tensor

ZOOM = 2.0
FAINT = (0.001, 0.001)  # noise levels at which nothing is denoised


def main() -> None:
    warnings.filterwarnings("ignore", "noise 0.001")  # on purpose
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=12, help="so many, spread over the manifest")
    parser.add_argument("--num-frames", type=int, default=9)
    arguments = parser.parse_args()
    interpolator = Interpolator.from_pretrained()
    pairs = read_pairs(arguments.pairs)
    rows = []
    for pair in pairs[:: max(1, len(pairs) // arguments.pictures)][: arguments.pictures]:
        found = errors(interpolator, pair, arguments.num_frames)
        rows.append({"picture": pair.a.name, **found})
        print(pair.a.name, ", ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    Console(width=110).print(table(rows))


def errors(interpolator: Interpolator, pair: Pair, num_frames: int) -> dict[str, float]:
    """The errors of one picture's films."""
    side = interpolator.backbone.native_size
    picture = fit(load(pair.a), (side, side), "cover", "white")
    motion, places = Motion(zoom=(ZOOM,)), [Fraction(i, num_frames - 1) for i in range(1, num_frames - 1)]
    plain = [view(motion, place, picture) for place in places]

    def film(**settings: Any) -> list[Image.Image]:
        prompt = pair.prompt_a or "a picture"
        values = {"prompt": prompt, "pose": "off", "num_frames": num_frames, "align": False, "detail": 0.0, **settings}
        morph = interpolator(picture, picture, **values)
        return list(morph.frames)[1:-1]

    moving: dict[str, Any] = {"zoom": (ZOOM,)}

    found = {"autoencoder": mean_difference([through(interpolator, one) for one in plain], plain)}
    found["faded at 0.001"] = mean_difference(film(noise=FAINT, detail=1.0, **moving), plain)
    found["pixel at 0.001"] = mean_difference(film(noise=FAINT, **moving), plain)
    found["pixel"] = mean_difference(film(**moving), plain)
    found["unmoved"] = mean_difference(film(), [picture] * len(places))
    return found


def through(interpolator: Interpolator, picture: Image.Image) -> Image.Image:
    """A picture through the autoencoder, and nothing else."""
    with interpolator.backbone.evaluating():
        return to_images(interpolator.backbone.decode(interpolator.backbone.encode(to_tensor([picture]))))[0]


def mean_difference(frames: Sequence[Image.Image], wanted: Sequence[Image.Image]) -> float:
    """The root mean square difference of each pair of pictures, 0 to 255; their mean."""
    pairs = zip(frames, wanted, strict=True)
    return float(np.mean([np.sqrt(np.square(np.asarray(a, float) - np.asarray(b, float)).mean()) for a, b in pairs]))


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Means over the pictures with intervals, and against the autoencoder's error of the same picture."""
    found = Table(
        "", "error", "error / autoencoder's", title=f"{len(rows)} pictures: mean [95 % interval over pictures]"
    )
    floor = np.array([row["autoencoder"] for row in rows])
    for name in list(rows[0])[1:]:
        values = np.array([row[name] for row in rows])
        error, share = mean_interval(values), mean_interval(values / floor)
        found.add_row(
            name,
            f"{error.value:.2f} [{error.low:.2f}, {error.high:.2f}]",
            f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]",
        )
    return found


if __name__ == "__main__":
    main()
