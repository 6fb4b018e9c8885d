"""The batch rule: every hidden layer descends its own information bottleneck over the whole batch."""

from collections.abc import Sequence

from torch import Tensor

from projectlib.hsic import check_objective, hsic, kernel_matrix
from projectlib.rules.batch import BatchRule


class HSIC(BatchRule):
    """Hidden layers descend ``HSIC(X, Z) - gamma HSIC(Y, Z)`` with respect to all activations of a plain batch.

    gamma: weight of the label term.  sigmas: bandwidths of x, y and z.  accumulate: samples in a batch, see
    ``Rule.make_blocks``.  Raises UserError for invalid values.
    """

    transports = "labels and the input"
    kernel = "hsic"
    gamma: float
    sigmas: tuple[float, float, float]

    def __init__(self, gamma: float, sigmas: Sequence[float], accumulate: int = 1):
        self.gamma, self.sigmas = check_objective(gamma, sigmas)
        self.make_blocks(accumulate)

    def prepare(self, x: Tensor, y: Tensor) -> Tensor:
        """``Kx - gamma Ky``, (N, N)."""
        return kernel_matrix(x, self.sigmas[0]) - self.gamma * kernel_matrix(y, self.sigmas[1])

    def objective(self, z: Tensor, context: Tensor) -> Tensor:
        return hsic(context, kernel_matrix(z, self.sigmas[2]))
