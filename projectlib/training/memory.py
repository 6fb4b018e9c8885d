"""How much memory an ensemble takes, known before any of it is taken."""

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from projectlib.errors import UserError

COPIES = 4  # of every weight: itself, its gradient and the two moments of Adam
BYTES = 4  # of a float32
RANDOM = {"normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_"}  # what draws weights, in place


class TooLarge(Exception):
    """One tensor that would not fit, and the number of its elements."""


class UndrawnWeights(TorchDispatchMode):
    """Within it a model is made without drawing its weights, whose memory is then never touched.

    limit: elements; a larger tensor raises TooLarge before it is allocated.
    """

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if args and isinstance(args[0], list | torch.Size) and math.prod(args[0]) > self.limit:
            raise TooLarge(math.prod(args[0]))
        if name == "empty_like" and args[0].numel() > self.limit:
            raise TooLarge(args[0].numel())
        return args[0] if name in RANDOM else func(*args, **(kwargs or {}))


def check_memory(make: Callable[[], nn.Module], num_models: int, device: torch.device) -> None:
    """Raises UserError where ``num_models`` of what ``make`` returns, as they are trained, do not fit the device."""
    available = memory_of(device)
    with UndrawnWeights(available / BYTES), torch.no_grad():
        try:
            weights = sum(parameter.numel() for parameter in make().parameters())
        except TooLarge as error:
            weights = error.args[0]
    needed = COPIES * BYTES * weights * num_models
    if needed > available:
        raise UserError(
            f"{num_models} models of {weights:,} weights need about {needed / 1e9:,.1f} GB to be trained, of "
            f"{available / 1e9:,.1f} GB that {device} has; expected a smaller nmodels, or smaller models"
        )


def memory_of(device: torch.device) -> float:
    """Bytes that a device has in all, or that this process may have of it; infinite where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    limits = [math.inf]
    with suppress(AttributeError, ValueError, OSError):  # not on every system
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ValueError, OSError):  # "max" where the container has no limit
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)
