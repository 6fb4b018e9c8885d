"""The three-factor rule: local input, local activity, and the modulatory signal of the newest sample."""

import torch
from torch import Tensor

from projectlib.hsic import kernel_matrix, kernel_row, modulation
from projectlib.rules.local import LocalRule


class BioHSIC(LocalRule):
    """Hidden layers follow the modulatory signal xi (``hsic.modulation``) at the window's newest sample.

    The gradient of a layer is xi pulled back through that layer alone, onto its own weights; the rest of the
    window enters through xi only, so it is run without a gradient.

    gamma: weight of the label term.  sigmas: bandwidths of x, y and z.  form: "published" or "exact".
    """

    def __init__(self, gamma: float, sigmas: tuple[float, float, float], form: str = "published"):
        self.gamma, self.sigmas, self.form = gamma, tuple(sigmas), form

    def prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return kernel_matrix(x, self.sigmas[0]), kernel_matrix(y, self.sigmas[1])

    def signal(self, z: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
        """What the newest sample of activations z (N, ...) receives: the shape of one z."""
        kx, ky = context
        sigma = self.sigmas[2]
        return modulation(kx, ky, kernel_row(z, sigma), z, self.gamma, sigma, self.form)

    def update_hidden(self, layer, parameters, h, u, context):
        past, past_u = layer(parameters, h[:-1], u[:-1])
        newest, pull_back, newest_u = torch.func.vjp(lambda p: layer(p, h[-1:], u[-1:]), parameters, has_aux=True)
        z = torch.cat([past, newest])
        (gradient,) = pull_back(self.signal(z, context)[None])
        return gradient, z, joined(past_u, newest_u)


def joined(past, newest):
    """The states of a window from those of its past and of its newest place; () for a layer without one."""
    return torch.cat([past, newest]) if isinstance(past, Tensor) else past
