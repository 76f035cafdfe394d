"""Guidance over a part of the denoising: what it saves, and how far the images move.

    python -m benchmarks.speed.intervals

The frames of ``benchmarks.speed.solvers``, with the default solver and guidance over all of the leg, its middle, its
beginning, its end; the distance to guidance over all of it is set against the distance between two noise seeds.
Kynkaanniemi et al., "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion
Models", 2024, arXiv 2404.07724.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed.meter import machine
from benchmarks.speed.solvers import PAIRS, REFERENCE, Frames, films, legs, subject
from segue import Interpolator
from segue.backbone import Sampling
from segue.clip import Clip
from segue.evaluate.manifest import read_pairs
from segue.files import write_json
from segue.settings import MorphSettings

INTERVALS = ((0.0, 1.0), (0.0, 0.75), (0.0, 0.5), (0.25, 1.0), (0.5, 1.0), (0.25, 0.75))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=12, help="how many pairs")
    parser.add_argument("--solver", default=MorphSettings().solver)
    parser.add_argument("--num-inference-steps", type=int, default=MorphSettings().num_inference_steps)
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--output", type=Path, default=Path("out/speed/intervals.json"))
    arguments = parser.parse_args()
    segue = Interpolator.from_pretrained(dtype=arguments.dtype, device=arguments.device)
    backbone: Any = segue.backbone
    all_pairs = read_pairs(PAIRS)
    pairs = all_pairs[:: max(1, len(all_pairs) // arguments.count)][: arguments.count]
    subjects, clip = [subject(backbone, pair) for pair in pairs], Clip.load()
    default = Sampling(
        solver=arguments.solver,
        num_inference_steps=arguments.num_inference_steps,
        guidance_scale=REFERENCE.guidance_scale,
    )
    full = Frames.of(films(backbone, subjects, default, 0, 16)[0], clip)
    apart = full.distances(Frames.of(films(backbone, subjects, default, 1, 16)[0], clip))
    rows = []
    for start, end in INTERVALS:
        sampling = replace(default, guidance_start=start, guidance_end=end)
        found = Frames.of(films(backbone, subjects, sampling, 0, 16)[0], clip)
        pixels, features = found.distances(full)
        guided = [sum(start <= i / n and (i + 1) / n <= end for i in range(n)) / n for n in legs(backbone, default)]
        rows.append(
            {
                "start": start,
                "end": end,
                "evaluations": (1 + sum(guided) / len(guided)) / 2,
                "pixels_over_seeds": float(pixels.mean() / apart[0].mean()),
                "features_over_seeds": float(features.mean() / apart[1].mean()),
            }
        )
        print(rows[-1], flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, {"machine": machine(backbone.pipe.device), "default": vars(default), "rows": rows})


if __name__ == "__main__":
    main()
