"""Which detector finds whom: pocket's and BlazePose, in drawn figures, in photographs, and in pictures of nobody.

    python -m benchmarks.detectors PHOTOGRAPHS... [--drawn DIRECTORY]

Draws figures that pocket was not trained on, and reads the photographs that are named, the benchmark's pairs without
those of figures, and the examples. For each kind it prints in how many pictures a detector finds somebody, the lowest
and the highest mean confidence of a person's found keypoints, and for the figures the share of keypoints within 15 %
of the figure's height of their place; for photographs also the CPU seconds of a picture on one thread. `--drawn` writes
the photographs with the skeletons over them.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segue.cli.pose import draw_over
from segue.pictures.images import load
from segue.pose.detect import Detect, detector_of
from segue.pose.keypoints import Pose

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from training.figures import TRAINED, make

WITHIN = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="*", type=Path)
    parser.add_argument("--figures", type=int, default=120)
    parser.add_argument("--drawn", type=Path, help="a directory for the photographs with skeletons")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures, places = draw_figures(arguments.figures)
    photographs = [load(path) for path in arguments.photographs]
    icons = sorted([*(HERE / "pairs").glob("*.png"), *(HERE.parent / "examples").glob("*.png")])
    nobody = [load(icon) for icon in icons if not icon.name.startswith("poses-")]
    for name in ("pocket", "blazepose", None):
        detect = detector_of(name)
        seconds = tell(f"{name or 'default':9}  photographs", photographs, detect)
        tell(f"{name or 'default':9}  nobody     ", nobody, detect)
        tell(f"{name or 'default':9}  figures    ", figures, detect, places)
        print(f"{name or 'default':9}  {seconds:.3f} CPU seconds a photograph")
    if arguments.drawn:
        arguments.drawn.mkdir(parents=True, exist_ok=True)
        for path, picture in zip(arguments.photographs, photographs, strict=True):
            pose = detector_of()(picture)
            draw_over(picture, pose).save(arguments.drawn / f"{path.stem}.png")
            print(path.name, json.dumps([int(person.visible.sum()) for person in pose.people]))


def draw_figures(count: int) -> tuple[list[Image.Image], list[NDArray[np.float64]]]:
    """Figures on white that pocket was not trained on, and their keypoints."""
    pictures, places = [], []
    for number in range(TRAINED, TRAINED + count):
        picture, record = make(number)
        pictures.append(load(picture))
        places.append(np.array(record["keypoints"]))
    return pictures, places


def tell(
    title: str, pictures: Sequence[Image.Image], detect: Detect, places: Sequence[NDArray[np.float64]] = ()
) -> float:
    """Print what a detector finds; the CPU seconds of a picture."""
    if not pictures:
        return 0.0
    detect(pictures[0])  # loads the networks
    before = time.process_time()
    poses = [detect(picture) for picture in pictures]
    seconds = (time.process_time() - before) / len(pictures)
    sure = [person.points[person.visible, 2].mean() for pose in poses for person in pose.people]
    there = sum(bool(pose.people) for pose in poses)
    line = f"{title}  somebody in {there:3} of {len(pictures):3}"
    if sure:
        line += f", confidence {min(sure):.3f} to {max(sure):.3f}"
    if places:
        line += f", keypoints in place {np.mean([find_share(*each) for each in zip(poses, places, strict=True)]):.3f}"
    print(line)
    return seconds


def find_share(pose: Pose, places: NDArray[np.float64]) -> float:
    """The share of a figure's keypoints that are found near their place, by the person who has most of them."""
    limit = WITHIN * np.ptp(places[:, 1])
    near = [person.visible & (np.hypot(*(person.points[:, :2] - places[:, :2]).T) <= limit) for person in pose.people]
    return max((float(found.mean()) for found in near), default=0.0)


if __name__ == "__main__":
    main()
