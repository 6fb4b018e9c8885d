"""The last samples as they were when they were seen, and the signal that follows from them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from projectlib.hsic import (
    BANDWIDTH,
    FORMS,
    LABEL_FORMS,
    hsic,
    is_bandwidth,
    kernel_matrix,
    kernel_row,
    mask_exponents,
    modulation,
    squared_distances,
)
from projectlib.modulators.memory import Memory
from projectlib.modulators.modulator import Sample
from projectlib.values import is_count, is_number, require


class Remembered(NamedTuple):
    """The last M samples, in a ring: sample number t (from 0) is in row ``t % M``.

    x (M, inputs), or (M, 0) where the signal asks for none; y (M, num_classes); z (M, d); count () of all samples so
    far, int64.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    count: Tensor


class RememberedModulator(Memory):
    """The signal of a window of N = ``size`` samples (``hsic.modulation``), none of which is run again.

    An older sample is represented by the z that it had when it was the newest: the window is kept in the layer's
    memory, and no input is run again.  There is no signal before the memory is full.

    size: N, samples in the memory with the newest.  signal: "published", "exact", or "parzen" or "contrastive", which
    need no x.  sigma: bandwidth of z for these two, of the contrastive one the root of its temperature.  gamma, sigmas:
    weight of the label term and bandwidths of x, y and z for the others.  grid: of ``Memory``.  Raises UserError for
    invalid values.
    """

    kernel = "remembered"

    def __init__(
        self,
        size: int,
        signal: str = "parzen",
        sigma: float = 0.265,
        gamma: float = 2.0,
        sigmas: Sequence[float] = (0.5, 0.1, 1.0),
        grid: int = 2,
    ):
        super().__init__(grid)
        enough = "a whole number of at least 2, the newest sample and others to compare it with"
        require(is_count(size) and size >= 2, "modulator.size", size, enough)
        require(signal in FORMS, "modulator.signal", signal, " or ".join(FORMS))
        is_triple = isinstance(sigmas, Sequence) and len(sigmas) == 3
        require(is_triple, "modulator.sigmas", sigmas, "three bandwidths: of x, y and z")
        bandwidths = {"modulator.sigma": sigma, **{f"modulator.sigmas[{i}]": value for i, value in enumerate(sigmas)}}
        for name, value in bandwidths.items():
            require(is_bandwidth(value), name, value, f"a bandwidth {BANDWIDTH}")
        require(is_number(gamma), "modulator.gamma", gamma, "a finite number, the weight of the label term")
        self.size, self.signal, self.gamma = size, signal, float(gamma)
        self.num_samples, self.compares_inputs = size, signal not in LABEL_FORMS
        self.transports = "labels and the input" if self.compares_inputs else "labels"
        self.sigmas = (*map(float, sigmas[:2]), float(sigma if signal in LABEL_FORMS else sigmas[2]))

    def empty(self, sample: Sample) -> Remembered:
        x, y, z = (part.new_zeros(self.size, part.numel()) for part in (self.kept(sample.x), sample.y, sample.z))
        return Remembered(x, y, z, torch.zeros((), dtype=torch.int64))

    def supply(self, sample: Sample, memory: Remembered) -> tuple[Tensor, Remembered]:
        places = torch.arange(self.size, device=sample.z.device)
        newest = (places == memory.count % self.size)[:, None]
        parts = (self.kept(sample.x), sample.y, sample.z)
        ring = [torch.where(newest, part.flatten(), old) for part, old in zip(parts, memory[:3], strict=True)]
        memory = Remembered(*ring, count=memory.count + 1)
        oldest_first = (memory.count + places) % self.size
        x, y, z = (part[oldest_first] for part in ring)
        if self.compares_inputs:
            kx, ky = kernel_matrix(x, self.sigmas[0]), kernel_matrix(y, self.sigmas[1])
            xi = modulation(kx, ky, kernel_row(z, self.sigmas[2]), z, self.gamma, self.sigmas[2], self.signal)
        else:
            xi = modulation(None, y @ y.T, None, z, self.gamma, self.sigmas[2], self.signal)
        return torch.where(memory.count >= self.size, xi, 0).reshape(sample.z.shape), memory

    def objective(self, samples: Sample) -> Tensor:
        """The mean of ``-log(S_same / S_all)`` over samples that have another of their class, or of the supervised
        contrastive loss; of the paper's signals ``HSIC(X, Z) - gamma HSIC(Y, Z)``.
        """
        if self.compares_inputs:
            kx, ky, kz = (kernel_matrix(part, sigma) for part, sigma in zip(samples, self.sigmas, strict=True))
            return hsic(kx, kz) - self.gamma * hsic(ky, kz)
        z = samples.z
        log_k = squared_distances(z) / (-2 * self.sigmas[2] ** 2 * z[0].numel())
        others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
        same = others & (samples.y @ samples.y.T == 1)
        if self.signal == "contrastive":
            of_same = torch.where(same, log_k, 0).sum(1) / same.sum(1).clamp(min=1)
        else:
            of_same = mask_exponents(log_k, same).logsumexp(1)
        return torch.where(same.any(1), mask_exponents(log_k, others).logsumexp(1) - of_same, 0).mean()

    def of_classes(self, memory: Remembered) -> Tensor:
        """The mean of what is remembered of each class, apart from that of all, (num_classes, d)."""
        shares = memory.y / memory.y.sum(0).clamp(min=1)
        return shares.T @ (memory.z - memory.z.mean(0))

    def kept(self, x: Tensor) -> Tensor:
        """What is remembered of an input x (...): all of it, flat, or nothing, (0,)."""
        return x.flatten() if self.compares_inputs else x.flatten()[:0]
