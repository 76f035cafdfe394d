"""What films of 17 to 257 frames cost: seconds, network evaluations, the largest memory.

    python -m benchmarks.speed.lengths

Pocket's films of a cat and a tiger at the default settings, from the shortest to the longest, in one process with the
model loaded. The cost should grow with the frames and the memory should not.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.meter import machine, peak_memory, seconds
from benchmarks.speed.pair import counted
from benchmarks.speed.shares import film
from segue import Interpolator
from segue.files import write_json

LENGTHS = (17, 33, 65, 129, 257)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--output", type=Path, default=Path("out/speed/lengths.json"))
    arguments = parser.parse_args()
    segue = Interpolator.from_pretrained(dtype=arguments.dtype, device=arguments.device)
    pipe: Any = segue.backbone.pipe  # type: ignore[attr-defined]
    film(segue, 17, 0)  # warm up
    rows = []
    for length in arguments.lengths:
        times = []
        with counted(pipe.unet) as calls, peak_memory(pipe.device) as memory:
            for round_ in range(arguments.rounds):
                times.append(seconds(lambda n=length, seed=round_: film(segue, n, seed), pipe.device))  # type: ignore[misc]
        rows.append(
            {
                "num_frames": length,
                "seconds": statistics.median(times),
                "evaluations": calls.samples // arguments.rounds,
                "memory": dict(memory),
            }
        )
        print(rows[-1], flush=True)
    frames, taken = (np.array([row[name] for row in rows], float) for name in ("num_frames", "seconds"))
    slope, start = np.polyfit(frames, taken, 1)
    worst = float(np.abs((slope * frames + start) / taken - 1).max())
    print(f"{slope:.3f} s a frame and {start:.2f} s at the beginning; at most {worst:.1%} from that line")
    results = {
        "machine": machine(pipe.device),
        "rows": rows,
        "seconds_per_frame": float(slope),
        "seconds_at_the_beginning": float(start),
        "farthest_from_the_line": worst,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, results)


if __name__ == "__main__":
    main()
