"""The three-factor rule: local input, local activity, and the modulatory signal of the newest sample."""

from typing import NamedTuple

import torch
from torch import Tensor

from projectlib.hsic import kernel_matrix, kernel_row, modulation
from projectlib.models.network import Network, State
from projectlib.modulators import Modulator, WindowModulator
from projectlib.rules.local import LocalRule


class Shared(NamedTuple):
    """What all models share of a window: kernel matrices (N, N) of inputs and labels, and its newest x and y."""

    kx: Tensor
    ky: Tensor
    x: Tensor
    y: Tensor


class Carried(NamedTuple):
    """The state of a layer, and what its modulator remembers."""

    u: Tensor | tuple[()]
    memory: NamedTuple


class BioHSIC(LocalRule):
    """Hidden layers follow the modulatory signal xi (``hsic.modulation``) at the window's newest sample.

    The gradient of a layer is xi pulled back through that layer alone, onto its own weights; the rest of the
    window enters through xi only, so it is run without a gradient.

    gamma: weight of the label term.  sigmas: bandwidths of x, y and z.  form: "published" or "exact".
    modulator: who supplies the signal; what it remembers is carried in the state of its layer.
    """

    def __init__(
        self,
        gamma: float,
        sigmas: tuple[float, float, float],
        form: str = "published",
        modulator: Modulator | None = None,
    ):
        self.gamma, self.sigmas, self.form = gamma, tuple(sigmas), form
        self.modulator = modulator or WindowModulator()

    def initial_state(self, network: Network, x: Tensor, y: Tensor) -> State:
        state = network.initial_state(len(x))
        outputs, _ = network.run(network.split_parameters(), state, x)
        num_inputs = x[0].numel() + y.shape[1]
        memories = [self.modulator.initial_state(num_inputs, z.shape[1:], x) for z in outputs[:-1]]
        return (*(Carried(u, m) if m else u for u, m in zip(state, memories, strict=False)), state[-1])

    def prepare(self, x: Tensor, y: Tensor) -> Shared:
        kx, ky = kernel_matrix(x, self.sigmas[0]), kernel_matrix(y, self.sigmas[1])
        return Shared(kx, ky, x[-1], y[-1])

    def signal(self, z: Tensor, context: Shared) -> Tensor:
        """What the window says to the newest sample of activations z (N, ...): the shape of one z."""
        sigma = self.sigmas[2]
        return modulation(context.kx, context.ky, kernel_row(z, sigma), z, self.gamma, sigma, self.form)

    def update_hidden(self, layer, parameters, h, u, context):
        u, memory = u if isinstance(u, Carried) else (u, ())
        past, past_u = layer(parameters, h[:-1], u[:-1])
        newest, pull_back, newest_u = torch.func.vjp(lambda p: layer(p, h[-1:], u[-1:]), parameters, has_aux=True)
        z = torch.cat([past, newest])
        xi, memory = self.modulator(self.signal(z, context), (context.x, context.y, z[-1]), memory)
        (gradient,) = pull_back(xi[None])
        u = joined(past_u, newest_u)
        return gradient, z, Carried(u, memory) if memory else u


def joined(past, newest):
    """The states of a window from those of its past and of its newest place; () for a layer without one."""
    return torch.cat([past, newest]) if isinstance(past, Tensor) else past
