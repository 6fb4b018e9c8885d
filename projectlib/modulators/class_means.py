"""What a layer makes of each class on average."""

import torch
from torch import Tensor

from projectlib.modulators.memory import Memory
from projectlib.modulators.modulator import Sample
from projectlib.values import is_number, require

SMALLEST_NORM = 1e-3  # added to a direction's length, so that a mean which is no different from the others has none


class ClassMeansModulator(Memory):
    """Running means m_c of a layer's activations, one per class, compared with the newest z by a softmax::

        m^_c = (m_c - mean_c m) / (|m_c - mean_c m| + 1e-3)
        xi   = sum_c (softmax_c(z . m^_c / (sqrt(d) tau)) - [c = y]) m^_c
        m_y  <- m_y + r (z - m_y)                                          after the signal

    xi is, up to a factor, the gradient of the cross-entropy of that softmax.  Classes that have not been seen, whose
    mean is zero, take no part, and give no signal.

    rate: r, a number in (0, 1].  temperature: tau.  grid: of ``Memory``.  Raises UserError for invalid values.
    """

    kernel = "class-means"

    def __init__(self, rate: float = 0.02, temperature: float = 0.07, grid: int = 2):
        super().__init__(grid)
        require(is_number(rate) and 0 < rate <= 1, "modulator.rate", rate, "a number above 0, at most 1")
        is_temperature = is_number(temperature) and temperature > 0
        require(is_temperature, "modulator.temperature", temperature, "a number above 0")
        self.rate, self.temperature = rate, temperature

    def empty(self, sample: Sample) -> Tensor:
        """The means, (num_classes, d)."""
        return sample.z.new_zeros(sample.y.numel(), sample.z.numel())

    def supply(self, sample: Sample, memory: Tensor) -> tuple[Tensor, Tensor]:
        z, y = sample.z.flatten(), sample.y
        seen, direction = directions(memory)
        known = (seen * y).sum() > 0
        similarity = direction @ z / (len(z) ** 0.5 * self.temperature)
        likelihood = torch.softmax(torch.where(seen, similarity, -torch.inf), 0)  # NaN before the first sample
        xi = torch.where(known, (likelihood - y) @ direction, 0)
        return xi.reshape(sample.z.shape), memory + self.rate * torch.outer(y, z) - self.rate * y[:, None] * memory

    def objective(self, samples: Sample) -> Tensor:
        """The mean cross-entropy of that softmax, (); the means are those of the samples, z (n, d)."""
        y, z = samples.y, samples.z
        seen, direction = directions(y.T @ z / y.sum(0).clamp(min=1)[:, None])
        similarity = z @ direction.T / (z.shape[1] ** 0.5 * self.temperature)
        likelihood = torch.log_softmax(torch.where(seen, similarity, -torch.inf), 1)
        return -torch.where(y > 0, likelihood, 0).sum(1).mean()

    def of_classes(self, memory: Tensor) -> Tensor:
        return directions(memory)[1]


def directions(means: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each class has been seen, (num_classes,), and m^ (num_classes, d), 0 of one that has not."""
    seen = (means != 0).any(1)
    apart = torch.where(seen[:, None], means - means.sum(0) / seen.sum().clamp(min=1), 0)
    return seen, apart / (torch.linalg.vector_norm(apart, dim=1, keepdim=True) + SMALLEST_NORM)
