"""A reservoir beside each layer supplies the signal, which it is taught by the window."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from projectlib.errors import UserError
from projectlib.models.reservoir import Reservoir, readout_gradient


class Memory(NamedTuple):
    """u (n,) of the units, readout W_o (d, n)."""

    u: Tensor
    readout: Tensor


class ReservoirModulator:
    """A reservoir beside each layer, which sees the newest sample only and supplies the signal from its memory::

        r = tanh(u),  o = W_o r                                                     o is applied
        u   <- u + dt/tau (lambda W_r r + W_i [x_N, y_N, z_N] + W_f o - u)
        W_o <- W_o - eta (o - xi) r                                                 then it is taught

    One time step for each of the network's.  The readout starts at zero; the other weights stay as they are drawn,
    the same for all models and for layers of one width.

    nhidden, recurrent_strength, density, time_constant, time_step: as of ``models.Reservoir``, in seconds.
    learning_rate: eta; its product with nhidden has to stay below 2, where the readout would overshoot.
    seed: of the weights.
    """

    def __init__(
        self,
        nhidden: int,
        recurrent_strength: float,
        density: float,
        time_constant: float,
        time_step: float,
        learning_rate: float,
        seed: int,
    ):
        if not 0 < learning_rate * nhidden < 2:
            raise UserError(
                f"modulator.learning_rate is {learning_rate} with modulator.nhidden {nhidden}; "
                "expected a product above 0 and below 2, where the readout learns without overshooting"
            )
        self.units = {
            "nhidden": nhidden,
            "recurrent_strength": recurrent_strength,
            "density": density,
            "time_constant": time_constant,
            "time_step": time_step,
            "noise": 0,
        }
        self.learning_rate, self.seed = learning_rate, seed
        self.reservoirs: dict[int, Reservoir] = {}  # by the number of neurons

    def initial_state(self, num_inputs: int, z_shape: Sequence[int], like: Tensor) -> Memory:
        """Raises UserError for activations that are no vector (convolutions), and where ``Reservoir`` does."""
        if len(z_shape) != 1:
            raise UserError(
                f"modulator=reservoir has a readout for each neuron, but activations are of shape {tuple(z_shape)}; "
                "expected dense layers: use modulator=window"
            )
        (width,) = z_shape
        generator = torch.Generator().manual_seed(self.seed)
        reservoir = Reservoir(num_inputs + width, width, **self.units, generator=generator).to(like)
        self.reservoirs[width] = reservoir.requires_grad_(False)
        return Memory(like.new_zeros(self.units["nhidden"]), reservoir.readout.clone())

    def __call__(self, xi: Tensor, newest: tuple[Tensor, Tensor, Tensor], state: Memory) -> tuple[Tensor, Memory]:
        reservoir = self.reservoirs[len(xi)]
        (parameters,) = reservoir.split_parameters()
        parameters["readout"] = state.readout
        current = reservoir.current(parameters, torch.cat([part.flatten() for part in newest]))
        u, r, o = reservoir.step(parameters, state.u, current)
        return o, Memory(u, state.readout - self.learning_rate * readout_gradient(r, o, xi))
