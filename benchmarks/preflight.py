"""The distances that `segue check` shows, over the benchmark's pairs: where its limits come from.

python benchmarks/preflight.py benchmarks/pairs/manifest.jsonl
"""

import argparse
from pathlib import Path

import numpy as np

from segue.check import Preflight, preflight
from segue.clip import Clip
from segue.evaluate.manifest import read_pairs
from segue.pictures import load
from segue.pose.keypoints import Pose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    clip = Clip.load()
    found: list[Preflight] = []
    for pair in read_pairs(parser.parse_args().pairs):
        poses = [Pose.load(file) if file else None for file in (pair.pose_a, pair.pose_b)]
        found.append(preflight(load(pair.a), load(pair.b), clip, poses))
    for name in ("layout", "style", "content", "pose"):
        values = [far for far in (getattr(one, name) for one in found) if far is not None]
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        print(f"{name}: {len(values)} pairs, quartiles {low:.3f} {middle:.3f} {high:.3f}")


if __name__ == "__main__":
    main()
