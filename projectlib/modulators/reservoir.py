"""A reservoir beside each layer supplies the signal, which it is taught by the window."""

from typing import NamedTuple

import torch
from torch import Tensor

from projectlib.ensemble import RESERVOIR, generator_of
from projectlib.errors import UserError
from projectlib.models.reservoir import Reservoir, readout_gradient
from projectlib.modulators.modulator import Modulator, Sample
from projectlib.values import is_count, is_number, require


class ReservoirState(NamedTuple):
    """u (n,) of the units, and all weights of the reservoir by name, of which ``readout`` (d, n) learns."""

    u: Tensor
    weights: dict[str, Tensor]


class ReservoirModulator(Modulator):
    """A reservoir beside each layer, which sees the newest sample only and supplies the signal from its memory::

        r = tanh(u),  o = W_o r                                                     o is applied
        u   <- u + dt/tau (lambda W_r r + W_i [x_N, y_N, z_N] + W_f o - u)
        W_o <- W_o - eta (o - xi) r                                                 then it is taught

    One time step for each of the network's.  The readout starts at zero; the other weights stay as they are drawn,
    the same for all models and for layers of one width (W_r for all layers).

    nhidden, recurrent_strength, density, time_constant, time_step: as in ``models.Reservoir``, in seconds.
    learning_rate: eta; its product with nhidden has to stay below 2, where the readout would overshoot.
    seed: of the weights.
    """

    needs_window = True
    transports = "labels and the input"

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
        require(is_count(nhidden), "modulator.nhidden", nhidden, "a whole number of at least 1")
        require(is_number(learning_rate), "modulator.learning_rate", learning_rate, "a number above 0")
        require(isinstance(seed, int) and 0 <= seed < 2**63, "modulator.seed", seed, "a whole number of at least 0")
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
        self.dynamics = Reservoir(1, 1, **{**self.units, "nhidden": 1}, generator=torch.Generator())  # of any size

    def initial_state(self, sample: Sample, generator: torch.Generator) -> ReservoirState:
        """Raises UserError for activations that are no vector (convolutions), and where ``Reservoir`` does."""
        if sample.z.ndim != 1:
            raise UserError(
                f"modulator=reservoir has a readout for each neuron, but activations are of shape "
                f"{tuple(sample.z.shape)}; expected dense layers: use modulator=window"
            )
        width = len(sample.z)
        num_inputs = sample.x.numel() + sample.y.numel() + width
        shared = generator_of(self.seed, RESERVOIR)
        (weights,) = Reservoir(num_inputs, width, **self.units, generator=shared).to(sample.z).split_parameters()
        return ReservoirState(sample.z.new_zeros(self.units["nhidden"]), weights)

    def __call__(
        self, sample: Sample, state: ReservoirState, window_signal: Tensor | None
    ) -> tuple[Tensor, ReservoirState]:
        assert window_signal is not None  # as it needs the window
        weights = state.weights
        current = self.dynamics.current(weights, torch.cat([part.flatten() for part in sample]))
        u, r, o = self.dynamics.step(weights, state.u, current)
        readout = weights["readout"] - self.learning_rate * readout_gradient(r, o, window_signal)
        return o, ReservoirState(u, {**weights, "readout": readout})
