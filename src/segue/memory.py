"""Memory: how much is free, how running out of it is recognised, and the one line for when nothing smaller is left."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from segue.errors import SegueError

__all__ = ["free_cached", "free_memory", "is_out_of_memory", "within_memory"]

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
