"""How well generated figures follow the poses that are asked for, and how far their films jump.

    python -m benchmarks.poses --pairs 50

Draws pairs of one figure in two poses that pocket was not trained on, makes each film with and without poses from the
same noise, and finds the keypoints of the generated frames with pocket's detector:

    followed   the share of the keypoints within 15 % of the figure's height of the path that was asked for;
               a keypoint that is not found counts as missed
    jump       the largest distance of neighbouring frames: root mean square of the pixels' differences at 32 x 32,
               and 1 - cosine of pocket's CLIP features

with the mean over the pairs and the bootstrap interval of the paired difference.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from segue import Interpolator
from segue.evaluate.statistics import paired_interval
from segue.files import write_json
from segue.models.clip import Clip
from segue.pose.detect import Detect, detector_of
from segue.pose.keypoints import Pose
from segue.pose.path import PosePath

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
from training import drawing, pairs
from training.figures import SEED
from training.icons import rasterise

FIRST = 1_000  # the number of the first pair; benchmarks/pairs holds 1 to 20
WITHIN = 0.15
NUM_FRAMES = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers of each pair")
    arguments = parser.parse_args()
    interpolator, clip, detect = Interpolator.from_pretrained(), Clip.load(), detector_of("pocket")
    rows: list[dict[str, dict[str, float]]] = []
    for number in range(FIRST, FIRST + arguments.pairs):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(interpolator, clip, detect, number, Path(folder)))
        print(number - FIRST + 1, json.dumps(rows[-1]), flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.output, rows)
    table = Table(title=f"{len(rows)} pairs of figures, {NUM_FRAMES} frames each")
    for column in ("", "without poses", "with poses", "difference [95 % interval]"):
        table.add_column(column, justify="right" if column else "left")
    for name in rows[0]["with"]:
        columns = [np.array([row[which][name] for row in rows]) for which in ("without", "with")]
        gain = paired_interval(columns[1], columns[0])
        shown = f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
        table.add_row(name, *(f"{column.mean():.4f}" for column in columns), shown)
    Console(width=110).print(table)


def measure(
    interpolator: Interpolator, clip: Clip, detect: Detect, number: int, folder: Path
) -> dict[str, dict[str, float]]:
    """One pair's films with and without poses, measured."""
    rng = np.random.default_rng([SEED, 10**6 + number])
    who = drawing.character(rng)
    pictures: list[Image.Image] = []
    prompts: list[str] = []
    files: list[Path] = []
    for action in rng.choice(drawing.ACTIONS, 2, replace=False):
        how = drawing.posture(rng, str(action))
        points = drawing.place(who, how, rng)
        picture = rasterise(drawing.draw(who, points))
        assert picture is not None
        pictures.append(Image.fromarray(picture, "RGBA"))
        prompts.append(drawing.caption(who, how))
        files.append(folder / f"{len(files)}.json")
        files[-1].write_text(json.dumps(pairs.openpose(points)))
    path = PosePath([Pose.load(file) for file in files], given=True)
    found: dict[str, dict[str, float]] = {}
    for which, pose in (("without", "off"), ("with", ",".join(map(str, files)))):
        settings: dict[str, Any] = {"num_frames": NUM_FRAMES, "prompt": prompts, "pose": pose}
        morph = interpolator(*pictures, **settings)
        frames = list(zip(morph.keys, morph.frames, strict=True))
        followed = [follows(detect(image), path(key.place)) for key, image in frames if not key.is_keyframe]
        images = [image for _, image in frames]
        found[which] = {
            "followed": float(np.mean(followed)),
            "jump, pixels": float(pixel_steps(images).max()),
            "jump, CLIP": float(clip_steps(clip, images).max()),
        }
    return found


def clip_steps(clip: Clip, pictures: Sequence[Image.Image]) -> NDArray[np.float64]:
    """1 - cosine of the CLIP features of neighbours."""
    features = clip.images(list(pictures)).double().numpy()
    return np.asarray(1 - (features[1:] * features[:-1]).sum(1))


def pixel_steps(pictures: Sequence[Image.Image]) -> NDArray[np.float64]:
    """Root mean square difference of neighbours, reduced to 32 x 32."""
    small = np.stack([np.asarray(p.resize((32, 32), Image.Resampling.BOX), float) for p in pictures]) / 255
    return np.asarray(np.sqrt(np.square(np.diff(small, axis=0)).mean((1, 2, 3))))


def follows(found: Pose, asked: Pose | None) -> float:
    """The share of the asked-for keypoints that were found within the limit."""
    assert asked is not None
    wanted = asked.people[0]
    if not found.people:
        return 0.0
    person = found.people[0]
    limit = WITHIN * (wanted.box[3] - wanted.box[1])
    near = np.hypot(*(person.points[:, :2] - wanted.points[:, :2]).T) <= limit
    return float((near & person.visible)[wanted.visible].mean())


if __name__ == "__main__":
    main()
