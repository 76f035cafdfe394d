"""Data, part two: drawn figures with their exact 18 OpenPose keypoints, as many as one likes.

Writes `figures.npy` (N, 128, 128, 4) and `figures.json` (caption, style, keypoints in pixels, held out or not).
Run: `python -m training.figures`.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from training import drawing
from training.icons import rasterise
from training.store import CACHE, command

TRAINED = 8_000
HELD_OUT = 2_000
SEED = 20_000


def main() -> None:
    command(__doc__).parse_args()
    with ProcessPoolExecutor() as pool:
        figures = list(pool.map(make, range(TRAINED + HELD_OUT), chunksize=64))
    np.save(CACHE / "figures.npy", np.stack([picture for picture, _ in figures]))
    (CACHE / "figures.json").write_text(json.dumps([record for _, record in figures]))


def make(number: int) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], dict[str, Any]]:
    """Figure `number`: its picture and its record."""
    rng = np.random.default_rng([SEED, number])
    who, how = drawing.character(rng), drawing.posture(rng)
    points = drawing.place(who, how, rng)
    picture = rasterise(drawing.draw(who, points))
    assert picture is not None
    record = {
        "name": f"figures/{number}",
        "concept": drawing.caption(who, how).rsplit(",", 1)[0],
        "style": f"{who.style} figure",
        "caption": drawing.caption(who, how),
        "held_out": number >= TRAINED,
        "keypoints": np.round(points, 2).tolist(),
    }
    return picture, record


if __name__ == "__main__":
    main()
