"""The machine: its memory, processors and devices, and the precision in which these compute well."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from segue.errors import SegueError

__all__ = [
    "allowed_cpus",
    "best_dtype",
    "device_of",
    "dtype_of",
    "free_cached",
    "free_memory",
    "has_cpu_extension",
    "is_out_of_memory",
    "limit_threads",
    "within_memory",
]

# What allocators say that have no exception of their own: MPS, and PyTorch's on the CPU.
SAID = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that memory is used up."""
    if error.__cause__ is not None and is_out_of_memory(error.__cause__):
        return True
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in SAID)


def free_cached() -> None:
    """Give memory that PyTorch holds in reserve back to the accelerator, so that a smaller batch finds it whole."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_memory(device: torch.device) -> int:
    """The bytes that are free for new tensors on a device, what PyTorch holds in reserve included."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserve
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return int(psutil.virtual_memory().available)


@contextmanager
def within_memory() -> Iterator[None]:
    """Turn what is left of an out-of-memory error, with no batch to halve, into one line.

    Raises:
        SegueError: memory is used up; its cause is the allocator's error.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, SegueError) or not is_out_of_memory(error):
            raise
        raise SegueError(
            "out of memory, even for one frame at a time; --low-memory, a smaller width and height or --dtype bfloat16 "
            "needs less"
        ) from error


def device_of(name: str | None) -> torch.device:
    """The device of a name; the best there is for none."""
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SegueError(f"device '{name}' is not available; use cpu, cuda, cuda:1 or mps") from error
    return device


def best_dtype(device: torch.device) -> torch.dtype:
    """The precision that a device does well: bfloat16 where it is native, float16 on other accelerators."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        return torch.bfloat16 if has_cpu_extension("amx_bf16") or has_cpu_extension("avx512_bf16") else torch.float32
    return torch.float32


def has_cpu_extension(extension: str) -> bool:
    """Whether the processor has an extension of its instructions."""
    return bool(torch.cpu.get_capabilities().get(extension))


def dtype_of(name: str | torch.dtype) -> torch.dtype:
    """The precision of a name.

    Raises:
        SegueError: no network computes in it here.
    """
    if isinstance(name, torch.dtype):
        return name
    if name not in ("float32", "bfloat16", "float16"):
        raise SegueError(f"dtype is float32, bfloat16 or float16, not '{name}'")
    found: torch.dtype = getattr(torch, name)
    return found


QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "200000 100000" for two processors, "max 100000" for all


def limit_threads() -> None:
    """Take the processors that the process may use as the number of threads, unless OMP_NUM_THREADS says otherwise.

    PyTorch counts the machine's cores. Where a container may use only a share of them, the threads above that wait for
    each other in every operation. This changes the whole process, so only the command line does it.
    """
    allowed = allowed_cpus(QUOTA)
    if "OMP_NUM_THREADS" not in os.environ and allowed is not None and allowed < torch.get_num_threads():
        torch.set_num_threads(allowed)


def allowed_cpus(quota: Path) -> int | None:
    """The processors of a control group's quota, rounded up; None if there is no limit."""
    try:
        most, period = quota.read_text().split()
        return None if most == "max" else max(1, math.ceil(int(most) / int(period)))
    except (OSError, ValueError):
        return None
