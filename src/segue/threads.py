"""Threads of the CPU: no more than a container lets the process use."""

import math
import os
from pathlib import Path

import torch

__all__ = ["allowed_cpus", "limit_threads"]

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
    """The processors of a control group's quota, rounded up; None where there is no limit."""
    try:
        most, period = quota.read_text().split()
        return None if most == "max" else max(1, math.ceil(int(most) / int(period)))
    except (OSError, ValueError):
        return None
