"""The three-factor rule: local input, local activity, and the modulatory signal of the newest sample."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from projectlib.hsic import check_form, check_objective, kernel_matrix, kernel_row, modulation
from projectlib.modulators import Modulator, Sample, WindowModulator
from projectlib.rules.local import Hidden, HiddenUpdate, LocalRule


class WindowContext(NamedTuple):
    """What all models share of a window: kernel matrices (N, N) of inputs and labels, and its newest x and y."""

    kx: Tensor
    ky: Tensor
    x: Tensor
    y: Tensor


class BioHSIC(LocalRule):
    """Hidden layers follow the modulatory signal xi at the newest sample::

        dW = -eta xi dz_N/dW        xi supplied by the modulator, dz_N/dW of this layer alone

    xi is pulled back through the layer's norm, relu and affine map onto its own weights; the rest of the window enters
    through xi only, so it is run without a gradient.

    gamma: weight of the label term.  sigmas: bandwidths of x, y and z.  form: of ``hsic.modulation``, the signal
    computed from the window.  modulator: who supplies the signal that is applied; the window's own unless it is given.
    Raises UserError for values that are none.
    """

    smallest_window = 2
    kernel = "biohsic"
    gamma: float
    sigmas: tuple[float, float, float]
    form: str

    def __init__(
        self,
        gamma: float = 2.0,
        sigmas: Sequence[float] = (1.0, 0.5, 2.0),
        form: str = "published",
        modulator: Modulator | None = None,
    ):
        self.gamma, self.sigmas = check_objective(gamma, sigmas)
        self.form, self.modulator = check_form(form), modulator or WindowModulator()

    def hidden_state(self, hidden: Hidden, z: Tensor, generator: torch.Generator) -> Any:
        return self.modulator.initial_state(Sample(hidden.x[-1], hidden.y[-1], z[-1]), generator)

    def prepare(self, x: Tensor, y: Tensor) -> WindowContext:
        kx, ky = kernel_matrix(x, self.sigmas[0]), kernel_matrix(y, self.sigmas[1])
        return WindowContext(kx, ky, x[-1], y[-1])

    def signal(self, z: Tensor, context: WindowContext) -> Tensor:
        """What the window says to the newest sample of activations z (N, ...): the shape of one z."""
        sigma = self.sigmas[2]
        return modulation(context.kx, context.ky, kernel_row(z, sigma), z, self.gamma, sigma, self.form)

    def update_hidden(self, hidden: Hidden, memory: Any, context: WindowContext) -> HiddenUpdate:
        past, newest = part_of(hidden, slice(None, -1)), part_of(hidden, slice(-1, None))
        past_z, past_u = past.run()
        newest_z, newest_u, pull_back = newest.pullback()
        z = torch.cat([past_z, newest_z])
        xi, memory = self.modulator(Sample(context.x, context.y, z[-1]), memory, self.signal(z, context))
        u = tree_map(lambda *parts: torch.cat(parts), past_u, newest_u)
        return HiddenUpdate(pull_back(xi[None]), z, u, memory)


def part_of(hidden: Hidden, places: slice) -> Hidden:
    """Some places of the window."""
    x, h, u, y = tree_map(lambda rows: rows[places], (hidden.x, hidden.h, hidden.u, hidden.y))
    return hidden._replace(x=x, h=h, u=u, y=y)
