"""The reservoir: a random recurrent network with a trained readout, the working memory of the theory."""

import math

import torch
from torch import Tensor, nn

from projectlib.errors import UserError
from projectlib.values import is_count, is_number, require


class Reservoir(nn.Module):
    """Rate units u with output feedback; only the readout W_o learns::

        r = tanh(u) + noise
        o = W_o r + noise
        u <- u + dt/tau (lambda W_r r + W_i input + W_f o - u)

    num_inputs: features of [x, y, z] together.  num_outputs: features of z.  nhidden: number of units n.
    recurrent_strength: lambda, the spectral radius of lambda W_r as n grows.  density: the probability that a
    recurrent weight is not zero; W_r is normal of sd 1/sqrt(density n).  time_constant, time_step: tau and dt in
    seconds.  noise: sd of the normal noise on r and o.  generator: draws the weights; W_i and W_f are uniform in
    [-1, 1], W_o starts at zero.  Raises UserError for invalid values, and unless 0 < density <= 1 and
    0 < dt <= tau.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        nhidden: int,
        recurrent_strength: float,
        density: float,
        time_constant: float,
        time_step: float,
        noise: float,
        generator: torch.Generator,
    ):
        super().__init__()
        require(is_count(nhidden), "nhidden", nhidden, "a whole number of at least 1, the units of a reservoir")
        require(is_number(recurrent_strength), "recurrent_strength", recurrent_strength, "a finite number")
        require(is_number(density) and 0 < density <= 1, "density", density, "a probability in (0, 1]")
        require(is_number(noise) and noise >= 0, "noise", noise, "a number of at least 0")
        require(is_number(time_constant) and time_constant > 0, "time_constant", time_constant, "seconds above 0")
        if not (is_number(time_step) and 0 < time_step <= time_constant):
            raise UserError(
                f"time_step of a reservoir is {time_step} s and its time_constant {time_constant} s; "
                "expected 0 < time_step <= time_constant"
            )
        self.recurrent_strength, self.noise = recurrent_strength, noise
        self.rate = time_step / time_constant
        recurrent = torch.empty(nhidden, nhidden).normal_(generator=generator)
        kept = torch.rand(nhidden, nhidden, generator=generator) < density
        self.recurrent = nn.Parameter(recurrent * kept / math.sqrt(density * nhidden))
        self.input = nn.Parameter(torch.empty(nhidden, num_inputs).uniform_(-1, 1, generator=generator))
        self.feedback = nn.Parameter(torch.empty(nhidden, num_outputs).uniform_(-1, 1, generator=generator))
        self.readout = nn.Parameter(torch.zeros(num_outputs, nhidden))

    def split_parameters(self) -> list[dict[str, Tensor]]:
        """The reservoir's own parameters as plain tensors, of one layer.

        recurrent (n, n), input (n, num_inputs), feedback (n, num_outputs), readout (num_outputs, n).
        """
        return [{name: p.detach() for name, p in self.named_parameters()}]

    def current(self, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """``W_i input``, constant while a window is presented.  inputs: (num_inputs,).  Returns (n,)."""
        return parameters["input"] @ inputs

    def step(
        self,
        parameters: dict[str, Tensor],
        u: Tensor,
        current: Tensor,
        noise: tuple[Tensor, Tensor] | tuple[()] = (),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One time step of a state u (n,) with the input current (n,).

        noise: what is added to r (n,) and to o (num_outputs,), or ().
        Returns the new u, and r and o of the old.
        """
        r = u.tanh()
        r = r + noise[0] if noise else r
        o = parameters["readout"] @ r
        o = o + noise[1] if noise else o
        drive = self.recurrent_strength * (parameters["recurrent"] @ r) + current + parameters["feedback"] @ o
        return u + self.rate * (drive - u), r, o


def readout_gradient(r: Tensor, o: Tensor, target: Tensor) -> Tensor:
    """Gradient (num_outputs, n) of ``|o - target|^2 / 2`` with respect to W_o, the delta rule: ``(o - target) r^T``.

    r: (n,).  o, target: (num_outputs,).
    """
    return (o - target)[:, None] * r
