"""The batch rule: every hidden layer descends its own information bottleneck over the whole batch."""

import torch
from torch import Tensor

from projectlib.hsic import hsic, kernel_matrix
from projectlib.rules.local import LocalRule


class HSIC(LocalRule):
    """Hidden layers descend ``HSIC(X, Z) - gamma HSIC(Y, Z)`` with respect to all activations of a plain batch.

    gamma: weight of the label term.  sigmas: bandwidths of x, y and z.
    """

    sliding = False

    def __init__(self, gamma: float, sigmas: tuple[float, float, float]):
        self.gamma, self.sigmas = gamma, tuple(sigmas)

    def prepare(self, x: Tensor, y: Tensor) -> Tensor:
        return kernel_matrix(x, self.sigmas[0]) - self.gamma * kernel_matrix(y, self.sigmas[1])

    def update_hidden(self, layer, parameters, h, u, context):
        def objective(p):
            z, new_u = layer(p, h, u)
            return hsic(context, kernel_matrix(z, self.sigmas[2])), (z, new_u)

        gradient, (z, u) = torch.func.grad(objective, has_aux=True)(parameters)
        return gradient, z, u
