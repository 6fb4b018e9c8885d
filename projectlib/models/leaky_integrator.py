"""Leaky integrators: membranes that low-pass filter their input and, without a threshold, never fire.

The paper calls them leaky integrate-and-fire units, and so do the config and ``lif_mlp``.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from projectlib.errors import UserError
from projectlib.models.network import DynamicLayer, Network, affine, check_features, normalized_relu
from projectlib.values import is_number, require


class LeakyIntegrator(DynamicLayer):
    """One time step of a layer of membranes u, (N, ...) and (N, num_out) -> (N, num_out) and (N, num_out)::

        u <- u + dt/tau (W h + b - u)
        z  = LN(relu(u))        of a hidden layer;   z = u   of the readout

    The old u is constant within a time step, so a gradient reaches W and b with the factor dt/tau.
    """

    def __init__(self, num_in: int, num_out: int, rate: float, hidden: bool, generator: torch.Generator):
        super().__init__()
        self.affine = affine(num_in, num_out, generator)
        self.rate = rate  # dt/tau
        self.hidden = hidden

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        return self.affine.weight.new_zeros(batch_size, self.affine.out_features)

    def forward(self, h: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        u = u + self.rate * (self.affine(h.flatten(1)) - u)
        return (normalized_relu(u) if self.hidden else u), u


def lif_mlp(
    input_shape: Sequence[int],
    num_classes: int,
    features: Sequence[int],
    time_constant: float,
    time_step: float,
    num_timesteps: int,
    generator: torch.Generator,
) -> Network:
    """LIF layers of ``features`` neurons each and a LIF readout.

    time_constant, time_step: tau and dt in seconds, 0 < dt <= tau.  num_timesteps: how long a window
    is presented.  generator: draws the weights.
    Raises UserError where the time step is longer than the time constant: the membrane would overshoot.
    """
    rate = membrane_rate(time_constant, time_step)
    widths = [math.prod(input_shape), *check_features(features), num_classes]
    last = len(widths) - 2
    return Network(
        *(
            LeakyIntegrator(num_in, num_out, rate, index < last, generator)
            for index, (num_in, num_out) in enumerate(pairwise(widths))
        ),
        num_timesteps=num_timesteps,
    )


def membrane_rate(time_constant: float, time_step: float, name: str = "model.time_constant") -> float:
    """dt/tau of seconds.  Raises UserError where the time step is longer than the time constant: it would overshoot."""
    require(is_number(time_constant) and time_constant > 0, name, time_constant, "seconds above 0")
    if not (is_number(time_step) and 0 < time_step <= time_constant):
        raise UserError(
            f"training.time_step is {time_step} s and {name} {time_constant} s; expected 0 < time_step <= "
            f"{name.removeprefix('model.')}"
        )
    return time_step / time_constant
