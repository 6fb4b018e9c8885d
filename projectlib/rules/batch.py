"""Batch rules: every hidden layer descends an objective that compares the samples of a plain batch."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from projectlib.rules.local import Hidden, HiddenUpdate, LocalRule


class BatchRule(LocalRule):
    """Hidden layers descend an objective of their own, with respect to all activations of a plain batch."""

    sliding = False
    smallest_window = 2

    @abstractmethod
    def objective(self, z: Tensor, context: Any) -> Tensor:
        """What a layer descends, a scalar.  z: (N, ...) its activations.  context: as ``prepare`` returned it."""

    def update_hidden(self, hidden: Hidden, memory: Any, context: Any) -> HiddenUpdate:
        layer = hidden.network.layer(hidden.index)

        def objective(p):
            z, u = layer(p, hidden.h, hidden.u)
            return self.objective(z, context), (z, u)

        gradients, (z, u) = torch.func.grad(objective, has_aux=True)(hidden.parameters)
        return HiddenUpdate(gradients, z, u, memory)
