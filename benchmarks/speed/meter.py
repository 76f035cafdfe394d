"""What is measured: time in each network and outside, calls, operations, memory, the machine's speed."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = [
    "Calls",
    "Meter",
    "machine",
    "matrix_speed",
    "median_ratio",
    "metered",
    "operations",
    "peak_memory",
    "seconds",
    "turns",
]

GB = 1e9


@dataclass
class Calls:
    """What one network did: its calls, the samples in them (rows of the batch), the seconds in them."""

    calls: int = 0
    samples: int = 0
    seconds: float = 0.0


@dataclass
class Meter:
    """What all networks did between the beginning and the end of a measurement, and how long everything took.

    Attributes:
        networks: by name: unet, vae, text_encoder, controlnet.
        seconds: of everything, networks included.
    """

    networks: dict[str, Calls] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def outside(self) -> float:
        """The share of the time that is spent outside of the networks."""
        return 1 - sum(calls.seconds for calls in self.networks.values()) / self.seconds


@contextmanager
def metered(
    networks: dict[str, nn.Module], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Meter]:
    """Measure calls of networks by wrapping what they compute, and all other time between them.

    Args:
        networks: by name; a network that has ``encode`` and ``decode`` is measured there.
        device: the accelerator is waited for around each call (which costs it the overlap with Python).
        clock: what tells the time; ``time.process_time`` on a machine that is busy with other work.
    """
    meter = Meter({name: Calls() for name in networks})
    kept: list[tuple[nn.Module, str]] = []
    depth = 0

    def wrapped(function: Callable[..., Any], calls: Calls) -> Callable[..., Any]:
        def measured(*arguments: Any, **options: Any) -> Any:
            nonlocal depth
            if depth:  # a network inside of a network
                return function(*arguments, **options)
            depth += 1
            begun = _now(device, clock)
            try:
                return function(*arguments, **options)
            finally:
                depth -= 1
                calls.seconds += _now(device, clock) - begun
                calls.calls += 1
                calls.samples += _rows(arguments, options)

        return measured

    try:
        for name, network in networks.items():
            for method in ("encode", "decode") if hasattr(network, "decode") else ("forward",):
                setattr(network, method, wrapped(getattr(network, method), meter.networks[name]))
                kept.append((network, method))
        begun = _now(device, clock)
        yield meter
        meter.seconds = _now(device, clock) - begun
    finally:
        for network, method in kept:
            delattr(network, method)  # the class's own shows again


def turns(
    works: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warm: bool = True
) -> dict[str, list[float]]:
    """The seconds of several works that take turns, in one process; each is done once before, unless not ``warm``."""
    if warm:
        for work in works.values():
            work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(seconds(work, device))
    return found


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long something takes, with what the accelerator still does of it."""
    begun = _now(device, time.perf_counter)
    work()
    return _now(device, time.perf_counter) - begun


def matrix_speed(device: torch.device, dtype: torch.dtype, budget: float = 2.0) -> float:
    """Operations a second (2 n^3 for a product of n x n) that the machine reaches on square matrices.

    The fastest of several products of each of three sizes, within a budget of seconds for each size.
    """
    best = 0.0
    for n in (1024, 2048, 4096):
        a, b = (torch.randn(n, n).to(device, dtype) for _ in range(2))
        times, begun = [seconds(lambda a=a, b=b: a @ b, device)], time.perf_counter()  # type: ignore[misc]
        while time.perf_counter() - begun < budget and len(times) < 20:
            times.append(seconds(lambda a=a, b=b: a @ b, device))  # type: ignore[misc]
        best = max(best, 2 * n**3 / min(times))
        if times[0] > 2 * budget:
            break  # a precision that the machine does not have
    return best


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of what a network computes, by torch's counter: a multiplication and addition are two.

    Only matrix products, convolutions and attention count.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """The largest memory of the process while something is done, in GB; also that of the accelerator.

    On Linux the resident peak is set back at the beginning; elsewhere it is not known.
    """
    found: dict[str, float] = {}
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
        found["before"] = _status(status, "VmRSS")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if reset.exists():
        found["resident"] = _status(status, "VmHWM")
    if device.type == "cuda":
        found["accelerator"] = torch.cuda.max_memory_allocated(device) / GB


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    can = torch.cpu.get_capabilities()
    found = [flag for flag in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if can.get(flag)]
    return {
        "cpu": name,
        "instructions": found,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """The median of the turns' ratios, first over second."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def _now(device: torch.device, clock: Callable[[], float]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


def _rows(arguments: Sequence[Any], options: dict[str, Any]) -> int:
    """The samples of a call: the rows of its first tensor."""
    return next((len(value) for value in [*arguments, *options.values()] if isinstance(value, Tensor)), 0)


def _status(path: Path, name: str) -> float:
    """An entry of a process's status, in GB."""
    line = next(line for line in path.read_text().splitlines() if line.startswith(name))
    return float(line.split()[1]) * 1024 / GB
