"""How much memory an ensemble takes, known before any of it is taken."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from projectlib.errors import UserError
from projectlib.machine import total_memory

COPIES_IN_TRAINING = 4  # per weight: itself, its gradient and Adam's two moments
BYTES_PER_WEIGHT = 4  # of a float32

MakeModel = Callable[[torch.Generator], Any]  # a Network or a Reservoir


class TooLarge(Exception):
    """One tensor that would not fit, with the number of its elements."""


class AllocationLimit(TorchDispatchMode):
    """While it is active, allocating a tensor of more than ``limit`` elements raises TooLarge instead."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], list | torch.Size) and all(isinstance(n, int) for n in args[0]):
            size = math.prod(args[0])  # torch.empty, rand, zeros: what is asked for comes first
        else:
            size = args[0].numel() if func is torch.ops.aten.empty_like.default else 0
        if size > self.limit:
            raise TooLarge(size)
        return func(*args, **(kwargs or {}))


def within_memory(
    make: MakeModel, num_models: int, device: torch.device, copies: int = COPIES_IN_TRAINING
) -> MakeModel:
    """``make``, which raises UserError where ``num_models`` of its models do not fit the device.

    copies: of every weight, while the models are trained.
    """

    def make_one(generator: torch.Generator) -> nn.Module:
        available = total_memory(device)
        try:
            with AllocationLimit(available / (copies * BYTES_PER_WEIGHT)):
                model = make(generator)
            weights, about = sum(parameter.numel() for parameter in model.parameters()), ""
        except TooLarge as error:
            weights, about = error.args[0], "at least "
        needed, least = copies * BYTES_PER_WEIGHT * weights * num_models, about or "about "
        if needed > available:
            raise UserError(
                f"{num_models} models of {about}{weights:,} weights need {least}{needed / 1e9:,.1f} GB to be trained, "
                f"of {available / 1e9:,.1f} GB that {device} has; expected fewer or smaller models"
            )
        return model

    return make_one
