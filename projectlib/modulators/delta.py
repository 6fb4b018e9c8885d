"""A readout of its own layer that is taught the label by a delta rule, and sends its error back."""

from typing import NamedTuple

import torch
from torch import Tensor

from projectlib.modulators.memory import Memory
from projectlib.modulators.modulator import Sample
from projectlib.modulators.running import Means, centered, covariances, moved, no_means
from projectlib.values import is_number, require

RIDGE, LEAST_RIDGE = 1e-3, 1e-12  # of the exact objective, relative to C_zz; and where that is 0, of a silent layer


class Predictor(NamedTuple):
    """The means that it predicts around, and its weights q (num_classes, d)."""

    means: Means
    q: Tensor


class DeltaModulator(Memory):
    """Predicts ``y~ = y - mu_y`` from ``z~ = z / sqrt(d) - mu_z``; what it is wrong by is the signal::

        e = Q z~ - y~;   xi = Q' e;   Q <- Q - eta e z~'

    Where Q has settled it is ``C_yz (C_zz + eps)^-1``, and xi is, up to a factor, the gradient of HSIC with linear
    kernels, normalised in Z alone, ``-tr[C_yz (C_zz + eps)^-1 C_zy]``, at the newest sample.  A class that has not been
    seen gives no signal.

    learning_rate: eta, below 2, from where on Q overshoots: ``|z~|^2`` is about 1.  (Of images it is 1 in the mean
    only, and Q overshoots from about 0.1 on.)  horizon: T of the running means, in samples.  grid: of ``Memory``.
    Raises UserError for invalid values.
    """

    kernel = "delta"

    def __init__(self, learning_rate: float = 0.3, horizon: float = 1e4, grid: int = 2):
        super().__init__(grid)
        is_rate = is_number(learning_rate) and 0 < learning_rate < 2
        require(is_rate, "modulator.learning_rate", learning_rate, "a number above 0 and below 2, where it overshoots")
        require(is_number(horizon) and horizon >= 1, "modulator.horizon", horizon, "a number of samples, at least 1")
        self.learning_rate, self.horizon = learning_rate, horizon

    def empty(self, sample: Sample) -> Predictor:
        return Predictor(no_means(sample), sample.z.new_zeros(sample.y.numel(), sample.z.numel()))

    def supply(self, sample: Sample, memory: Predictor) -> tuple[Tensor, Predictor]:
        z, y, seen = centered(sample, memory.means)
        error = memory.q @ z - y
        xi = torch.where(seen, error @ memory.q, 0)
        means, _ = moved(memory.means, z, y, self.horizon)
        return xi.reshape(sample.z.shape), Predictor(means, memory.q - self.learning_rate * torch.outer(error, z))

    def objective(self, samples: Sample) -> Tensor:
        """``-tr[C_yz (C_zz + eps)^-1 C_zy]``, eps a thousandth of what C_zz is on average along a direction."""
        zz, yz = covariances(samples)
        ridge = (RIDGE * zz.diagonal().mean().detach()).clamp(min=LEAST_RIDGE)
        regular = zz + ridge * torch.eye(len(zz), dtype=zz.dtype, device=zz.device)
        return -(yz * torch.linalg.solve(regular, yz.T).T).sum()

    def of_classes(self, memory: Predictor) -> Tensor:
        return memory.q
