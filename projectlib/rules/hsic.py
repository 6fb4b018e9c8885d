"""The batch rule: every hidden layer descends its own information bottleneck over the whole batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from projectlib.hsic import check_objective, hsic, kernel_matrix
from projectlib.rules.local import Hidden, HiddenUpdate, LocalRule


class HSIC(LocalRule):
    """Hidden layers descend ``HSIC(X, Z) - gamma HSIC(Y, Z)`` with respect to all activations of a plain batch.

    gamma: weight of the label term.  sigmas: bandwidths of x, y and z.  Raises UserError where they are none.
    """

    sliding = False
    smallest_window = 2
    gamma: float
    sigmas: tuple[float, float, float]

    def __init__(self, gamma: float, sigmas: Sequence[float]):
        self.gamma, self.sigmas = check_objective(gamma, sigmas)

    def prepare(self, x: Tensor, y: Tensor) -> Tensor:
        """``Kx - gamma Ky``, (N, N)."""
        return kernel_matrix(x, self.sigmas[0]) - self.gamma * kernel_matrix(y, self.sigmas[1])

    def update_hidden(self, hidden: Hidden, memory: Any, context: Tensor) -> HiddenUpdate:
        layer = hidden.network.layer(hidden.index)

        def objective(p):
            z, u = layer(p, hidden.h, hidden.u)
            return hsic(context, kernel_matrix(z, self.sigmas[2])), (z, u)

        gradients, (z, u) = torch.func.grad(objective, has_aux=True)(hidden.parameters)
        return HiddenUpdate(gradients, z, u, memory)
