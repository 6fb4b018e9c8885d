"""The delta rule of the reservoir's readout, towards the modulatory signal of the window."""

from torch import Tensor

from projectlib.hsic import kernel_matrix, modulation
from projectlib.models.reservoir import readout_gradient


class Delta:
    """``dW_o = -eta (o - xi) r``: the gradient of ``|o - xi|^2 / 2`` with o constant in all but W_o.

    gamma, sigma, form: of the signal xi, one bandwidth for x, y and z.
    """

    sliding = True

    def __init__(self, gamma: float, sigma: float, form: str = "published"):
        self.gamma, self.sigma, self.form = gamma, sigma, form

    def target(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """The signal xi (zdim,) of a window: x (N, ...) inputs, y (N, classes) one-hot, z (N, zdim)."""
        kx, ky, kz = (kernel_matrix(a, self.sigma) for a in (x, y, z))
        return modulation(kx, ky, kz, z, self.gamma, self.sigma, self.form)

    @staticmethod
    def gradient(r: Tensor, o: Tensor, xi: Tensor) -> Tensor:
        """Gradient (zdim, n) of the readout from r (n,), o (zdim,) and xi (zdim,)."""
        return readout_gradient(r, o, xi)
