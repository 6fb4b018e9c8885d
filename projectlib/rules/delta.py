"""The delta rule of the reservoir's readout, towards the modulatory signal of the window."""

from torch import Tensor

from projectlib.hsic import LABEL_FORMS, check_form, check_gamma, check_sigma, kernel_matrix, modulation
from projectlib.models.reservoir import readout_gradient


class Delta:
    """``dW_o = -eta (o - xi) r``: the gradient of ``|o - xi|^2 / 2`` with o constant in all but W_o.

    gamma, sigma, form: of the signal xi, one bandwidth for x, y and z.  Raises UserError for invalid values.
    """

    task = "reservoir"
    sliding = True
    smallest_window = 2
    gradient = staticmethod(readout_gradient)

    def __init__(self, gamma: float, sigma: float, form: str = "published"):
        self.gamma, self.sigma, self.form = check_gamma(gamma), check_sigma(sigma), check_form(form)

    def target(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """The signal xi (zdim,) of a window: x (N, ...) inputs, y (N, classes) one-hot, z (N, zdim)."""
        kx, kz = kernel_matrix(x, self.sigma), kernel_matrix(z, self.sigma)
        ky = y @ y.T if self.form in LABEL_FORMS else kernel_matrix(y, self.sigma)
        return modulation(kx, ky, kz, z, self.gamma, self.sigma, self.form)
