"""The loop that all stages share: steps until the minutes are over, averaged weights, a log, checkpoints.

Runs on one GPU where there is one, else on the CPU; in bfloat16 where the device computes it natively. A stage says how
it trains on each kind of device (`Course`) and what the loss of a step is; the rest is `train`.
"""

import argparse
import csv
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from segue.machine import best_dtype
from training.store import CACHE, command, load_checkpoint, save_checkpoint

__all__ = ["DEVICE", "Course", "Ema", "Log", "arguments", "autocast", "course", "generator", "train", "warm_up"]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SAVE_SECONDS = 120
CLIP_NORM = 1.0


@dataclass(frozen=True)
class Course:
    """How a stage trains on one kind of device.

    Attributes:
        minutes: of training in all, if none are asked for.
        batch: samples of a step.
        rate: the peak of the learning rate.
        ema: memory of the averaged weights.
        first: steps over which the learning rate rises.
        log_every: steps between two rows of the log.
    """

    minutes: float
    batch: int
    rate: float
    ema: float
    first: int = 100
    log_every: int = 50


def course(*, cpu: Course, gpu: Course) -> Course:
    """The course for the device that is there."""
    return gpu if DEVICE.type == "cuda" else cpu


def arguments(doc: str | None, minutes: float) -> argparse.ArgumentParser:
    """A stage's command line: `--minutes` of training in all, earlier ones included."""
    parser = command(doc)
    parser.add_argument("--minutes", type=float, default=minutes, help="of training in all, earlier ones included")
    return parser


def autocast(device: torch.device = DEVICE) -> torch.autocast:
    """Mixed precision in bfloat16 where the device computes it natively; elsewhere float32 as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=best_dtype(device) is torch.bfloat16)


def generator(seed: int) -> torch.Generator:
    """Random numbers on the device that trains."""
    return torch.Generator(DEVICE).manual_seed(seed)


def train(
    stage: str,
    network: nn.Module,
    loss_of: Callable[[int], tuple[Tensor, Mapping[str, Tensor]]],
    how: Course,
    minutes: float,
    *,
    decay: float = 0.01,
    no_decay: str | None = None,
    averaged: bool = False,
    check: Callable[[], object] | None = None,
    check_every: int = 0,
) -> None:
    """Train a stage until its minutes are over or it is asked to end; go on from its last checkpoint.

    Args:
        stage: the name of the checkpoint and of the log.
        network: on DEVICE; frozen parameters stay as they are.
        loss_of: from a step's number to its loss, and other numbers for the log.
        how: batch, rates and the like.
        minutes: of training in all, earlier ones included.
        decay: weight decay of what has two dimensions or more.
        no_decay: parameters with this in their name do not decay either.
        averaged: go on from the averaged weights instead of the last ones.
        check: called with the averaged weights in the network, every `check_every` steps and at the end.
        check_every: 0 for never.
    """
    shrinks = {n: p.ndim > 1 and not (no_decay and no_decay in n) for n, p in network.named_parameters()}
    groups = [
        {"params": [p for n, p in network.named_parameters() if shrinks[n] == here], "weight_decay": decay * here}
        for here in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=how.rate, betas=(0.9, 0.98), fused=True)
    state = load_checkpoint(stage) or {"step": 0, "seconds": 0.0}
    if "ema" in state:
        network.load_state_dict(state["ema" if averaged else "model"])
    if "optimizer" in state:  # Not in a checkpoint that was restored from exported weights.
        optimizer.load_state_dict(state["optimizer"])
    step = int(state["step"])
    ema = Ema(network, how.ema, state.get("ema"), step)
    print(f"{stage}: {sum(p.numel() for p in network.parameters())} parameters on {DEVICE}, step {step}", flush=True)
    clock, log, saved = Clock(state["seconds"]), Log(stage), time.monotonic()
    with Stop() as stop:
        while clock() < minutes * 60 and not stop:
            rate = warm_up(step, step / max(clock() / (minutes * 60), 1e-3), how.rate, first=how.first)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, numbers = loss_of(step)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
            optimizer.step()
            ema.update(network)
            step += 1
            log.add(loss=loss.detach(), **numbers)
            if step % how.log_every == 0:
                log.row(step=step, seconds=clock(), rate=rate)
            over = clock() >= minutes * 60 or bool(stop)
            if check and check_every and (step % check_every == 0 or over):
                with ema.applying(network):
                    check()
            if over or time.monotonic() - saved > SAVE_SECONDS:
                saved = time.monotonic()
                weights = {"model": network.state_dict(), "ema": ema.weights, "optimizer": optimizer.state_dict()}
                save_checkpoint(stage, {"step": step, "seconds": clock(), **weights})


def warm_up(step: int, steps: float, peak: float, *, first: int = 200, last: float = 0.02) -> float:
    """The learning rate: a linear rise over `first` steps, then half a cosine down to `last` of the peak."""
    if step < first:
        return peak * (step + 1) / first
    done = min(1.0, (step - first) / max(1.0, steps - first))
    return peak * (last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done)))


class Log:
    """Rows of numbers, appended to `STAGE.csv` and printed; averages of what was added since the last row."""

    def __init__(self, stage: str) -> None:
        self.path = CACHE / f"{stage}.csv"
        self.added: dict[str, list[Tensor]] = {}

    def add(self, **numbers: Tensor) -> None:
        """Takes numbers into the next row's averages; they are read from the device only then."""
        for name, number in numbers.items():
            self.added.setdefault(name, []).append(number)

    def row(self, **numbers: float) -> None:
        """Writes one row: the given numbers as they are, then the averages."""
        row = {**numbers, **{name: torch.stack(values).mean().item() for name, values in self.added.items()}}
        self.added = {}
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

    def __enter__(self) -> Self:
        self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

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

    def __init__(self, module: nn.Module, decay: float, state: Mapping[str, Tensor] | None = None, steps: int = 0):
        self.decay, self.steps = decay, steps
        own = module.state_dict()
        given = own if state is None else state
        self.weights = {name: given[name].detach().to(tensor.device, copy=True) for name, tensor in own.items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes one step's weights in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        pairs = [(self.weights[name], tensor) for name, tensor in module.state_dict().items()]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], 1 - decay)

    @contextmanager
    def applying(self, module: nn.Module) -> Iterator[None]:
        """The averaged weights in the module, then its own again."""
        own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(self.weights)
        try:
            yield
        finally:
            module.load_state_dict(own)
