"""A schedule of the learning rate that torch lacks: one that steps within an epoch."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from projectlib.values import is_count, require


class SmoothCosine(LambdaLR):
    """Half a cosine over a run, updated ``parts`` times per epoch; the rate after k updates is::

        lr_k = lr (1 + cos(pi k / (num_epochs parts))) / 2

    A schedule that is updated once per epoch ends a short run with a rate far from 0.

    num_epochs: of the run.  parts: what ``fit`` cuts an epoch into.  Raises UserError unless both are at least 1.
    """

    def __init__(self, optimizer: Optimizer, num_epochs: int, parts: int = 20):
        require(is_count(num_epochs), "lr_schedule.num_epochs", num_epochs, "a whole number of at least 1")
        require(is_count(parts), "lr_schedule.parts", parts, "a whole number of at least 1, steps in an epoch")
        self.parts, num_steps = parts, num_epochs * parts
        super().__init__(optimizer, lambda k: (1 + math.cos(math.pi * min(k / num_steps, 1))) / 2)
