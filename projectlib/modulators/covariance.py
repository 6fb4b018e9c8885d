"""Hebbian memory: the covariances of a layer's activations with each other and with the labels."""

from typing import NamedTuple

import torch
from torch import Tensor

from projectlib.modulators.memory import Memory
from projectlib.modulators.modulator import Sample
from projectlib.modulators.running import Means, centered, covariances, moved, no_means
from projectlib.values import is_number, require


class Covariances(NamedTuple):
    """The means that they are around, zz (d, d) and yz (num_classes, d)."""

    means: Means
    zz: Tensor
    yz: Tensor


class CovarianceModulator(Memory):
    """Running covariances, of ``z~ = z / sqrt(d) - mu_z`` and ``y~ = y - mu_y``, read and then written::

        xi   = w C_zz z~ - C_yz' y~
        C_zz <- (1 - r) C_zz + r z~ z~',   C_yz <- (1 - r) C_yz + r y~ z~',   r = max(1 / T, 1 / t)

    xi is, up to a factor, the gradient of ``w HSIC(Z, Z) / 2 - HSIC(Y, Z)`` with linear kernels at the newest sample
    (the objective of Pogodin and Latham 2020).  A class that has not been seen gives no signal.

    horizon: T in samples.  weight: w.  grid: of ``Memory``.  Raises UserError for invalid values.
    """

    kernel = "covariance"

    def __init__(self, horizon: float = 1e5, weight: float = 2.0, grid: int = 2):
        super().__init__(grid)
        require(is_number(horizon) and horizon >= 1, "modulator.horizon", horizon, "a number of samples, at least 1")
        require(is_number(weight), "modulator.weight", weight, "a finite number, the weight of HSIC(Z, Z)")
        self.horizon, self.weight = horizon, weight

    def empty(self, sample: Sample) -> Covariances:
        width, zeros = sample.z.numel(), sample.z.new_zeros
        return Covariances(no_means(sample), zeros(width, width), zeros(sample.y.numel(), width))

    def supply(self, sample: Sample, memory: Covariances) -> tuple[Tensor, Covariances]:
        z, y, seen = centered(sample, memory.means)
        xi = torch.where(seen, self.weight * (memory.zz @ z) - y @ memory.yz, 0)
        means, rate = moved(memory.means, z, y, self.horizon)
        zz = (1 - rate) * memory.zz + rate * torch.outer(z, z)
        yz = (1 - rate) * memory.yz + rate * torch.outer(y, z)
        return xi.reshape(sample.z.shape), Covariances(means, zz, yz)

    def objective(self, samples: Sample) -> Tensor:
        """``w HSIC(Z, Z) / 2 - HSIC(Y, Z)``."""
        zz, yz = covariances(samples)
        return self.weight / 2 * zz.square().sum() - yz.square().sum()

    def of_classes(self, memory: Covariances) -> Tensor:
        return memory.yz
