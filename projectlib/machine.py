"""What of the machine is there: memory, and cores."""

import math
import os
from contextlib import suppress
from pathlib import Path

import torch


def total_memory(device: torch.device) -> float:
    """Bytes of memory of a device, or of this process's container where that has less; infinite if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    limits = [math.inf]
    with suppress(AttributeError, ValueError, OSError):  # not on every system
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ValueError, OSError):  # "max" where the container has no limit
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def num_cores() -> int:
    """Cores that this process may use, no more than ``OMP_NUM_THREADS`` asks for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdigit() and int(asked) else cores
