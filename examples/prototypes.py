"""A memory of one's own: a fading mean of each class's activity, which is recalled twice, by nearness and by label.

    biohsic --config-dir examples/configs "plugins=[prototypes]" modulator=prototypes data=digits

The signal is the difference of the two recalls; it vanishes where a layer's activity alone says which class it is.
"""

import torch
from torch import Tensor

from projectlib.errors import UserError
from projectlib.modulators import Memory, Sample


class Prototypes(Memory):
    """A Gaussian around each class's prototype m_c, (d,), as in soft vector quantization (Seo and Obermayer 2003)::

        p_c = softmax_c(-|z - m_c|^2 / (2 sigma^2 d));   xi = (sum_c p_c m_c - m_y) / (sigma^2 d)
        m_y <- m_y + rate (z - m_y)                       after the signal

    xi is the gradient of ``-log p_y`` with respect to z.  Classes that have not been seen take no part, and give no
    signal.  rate: in (0, 1].  sigma: bandwidth per unit of sqrt(d).  Raises UserError for other values.
    """

    def __init__(self, rate: float, sigma: float):
        super().__init__()
        if not 0 < rate <= 1 or not sigma > 0:
            raise UserError(f"modulator.rate is {rate} and modulator.sigma {sigma}; expected 0 < rate <= 1, sigma > 0")
        self.rate, self.sigma = rate, sigma

    def empty(self, sample: Sample) -> Tensor:
        """The prototypes, (num_classes, d)."""
        return sample.z.new_zeros(sample.y.numel(), sample.z.numel())

    def supply(self, sample: Sample, memory: Tensor) -> tuple[Tensor, Tensor]:
        z, y = sample.z.flatten(), sample.y
        seen = (memory != 0).any(1)
        near = torch.softmax(self.closeness(z, memory).where(seen, -1e30), 0)
        xi = (near - y) @ memory / (self.sigma**2 * len(z))
        known = (seen * y).sum() > 0
        return xi.where(known, 0).reshape(sample.z.shape), memory + self.rate * y[:, None] * (z - memory)

    def objective(self, samples: Sample) -> Tensor:
        """The mean of ``-log p_y``, the prototypes being the means of the samples."""
        means = samples.y.T @ samples.z / samples.y.sum(0).clamp(min=1)[:, None]
        return -(samples.y * self.closeness(samples.z, means).log_softmax(1)).sum(1).mean()

    def of_classes(self, memory: Tensor) -> Tensor:
        return memory - memory.mean(0)

    def closeness(self, z: Tensor, means: Tensor) -> Tensor:
        """``-|z - m_c|^2 / (2 sigma^2 d)``, (..., num_classes) of z (..., d)."""
        return -(z[..., None, :] - means).square().sum(-1) / (2 * self.sigma**2 * z.shape[-1])
