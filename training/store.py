"""What the stages share: where things lie, checkpoints, the CSV log, averaged weights, the learning rate's course.

Everything that a stage makes lies in `.cache/pocket` (or in the folder that `SEGUE_POCKET` names): data sets as
`.npy` beside a `.json` of captions, checkpoints as `STAGE.pt`, logs as `STAGE.csv`. Only `export` writes elsewhere.
"""

import csv
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "CACHE",
    "MODEL",
    "ROOT",
    "Clock",
    "Ema",
    "Log",
    "Stop",
    "load_array",
    "load_checkpoint",
    "save_checkpoint",
    "warm_up",
]

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("SEGUE_POCKET", ROOT / ".cache" / "pocket"))
MODEL = ROOT / "src" / "segue" / "models" / "pocket"


def load_array(name: str) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """A data set: pictures (N, 128, 128, 4), RGBA with straight alpha, mapped from disk, and one record for each."""
    pictures = np.load(CACHE / f"{name}.npy", mmap_mode="r")
    return pictures, json.loads((CACHE / f"{name}.json").read_text())


def save_checkpoint(stage: str, state: dict[str, Any]) -> None:
    """Writes `STAGE.pt`; a reader or a crash never sees half a file."""
    path = CACHE / f"{stage}.pt"
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_checkpoint(stage: str) -> dict[str, Any] | None:
    """The last checkpoint of a stage, or None before its first one."""
    path = CACHE / f"{stage}.pt"
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


class Log:
    """Rows of numbers, appended to `STAGE.csv` and printed; averages of what was added since the last row."""

    def __init__(self, stage: str) -> None:
        self.path = CACHE / f"{stage}.csv"
        self.sums: dict[str, list[float]] = {}

    def add(self, **numbers: float) -> None:
        """Takes numbers into the next row's averages."""
        for name, number in numbers.items():
            self.sums.setdefault(name, []).append(float(number))

    def row(self, **numbers: float) -> None:
        """Writes one row: the given numbers as they are, then the averages."""
        row = {**numbers, **{name: sum(values) / len(values) for name, values in self.sums.items()}}
        self.sums = {}
        fresh = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(row)
            writer.writerow([f"{value:.6g}" for value in row.values()])
        print("  ".join(f"{name} {value:.5g}" for name, value in row.items()), flush=True)


class Stop:
    """True once the process was asked to end (SIGTERM, SIGINT): time to write the checkpoint and leave."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def __bool__(self) -> bool:
        return self.asked


class Clock:
    """Seconds of training so far, over all resumptions."""

    def __init__(self, before: float = 0.0) -> None:
        self.start = time.monotonic() - before

    def __call__(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self.start


class Ema:
    """Exponential moving average of a module's parameters (float32), with a warm-up of its memory."""

    def __init__(self, module: nn.Module, decay: float, state: dict[str, Tensor] | None = None) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = {name: tensor.detach().clone() for name, tensor in (state or module.state_dict()).items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes one step's weights in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        pairs = [(self.weights[name], tensor) for name, tensor in module.state_dict().items()]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], 1 - decay)


def warm_up(step: int, steps: float, peak: float, *, first: int = 200, last: float = 0.02) -> float:
    """The learning rate: a linear rise over `first` steps, then half a cosine down to `last` of the peak."""
    if step < first:
        return peak * (step + 1) / first
    done = min(1.0, (step - first) / max(1.0, steps - first))
    return peak * (last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done)))
