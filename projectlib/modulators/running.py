"""Running means of a layer's activations and of the labels, which memories of correlations are taken around."""

from typing import NamedTuple

import torch
from torch import Tensor

from projectlib.modulators.modulator import Sample


class Means(NamedTuple):
    """z (d,) of ``z / sqrt(d)``, y (num_classes,), count () of the samples so far, int64."""

    z: Tensor
    y: Tensor
    count: Tensor


def no_means(sample: Sample) -> Means:
    """Before the first sample."""
    return Means(sample.z.new_zeros(sample.z.numel()), torch.zeros_like(sample.y), torch.zeros((), dtype=torch.int64))


def centered(sample: Sample, means: Means) -> tuple[Tensor, Tensor, Tensor]:
    """``z~ = z / sqrt(d) - mu_z`` (d,), ``y~ = y - mu_y`` (num_classes,), and whether the label was seen before."""
    z = sample.z.flatten() / sample.z.numel() ** 0.5 - means.z
    return z, sample.y - means.y, (sample.y * means.y).sum() > 0


def covariances(samples: Sample) -> tuple[Tensor, Tensor]:
    """C_zz (d, d) and C_yz (num_classes, d) of samples (n, ...), of ``z / sqrt(d)`` and y around their means."""
    z = samples.z / samples.z.shape[1] ** 0.5
    z, y = z - z.mean(0), samples.y - samples.y.mean(0)
    return z.T @ z / len(z), y.T @ z / len(z)


def moved(means: Means, z: Tensor, y: Tensor, horizon: float) -> tuple[Means, Tensor]:
    """The means after a sample of centred z and y, and the rate ``r = max(1 / T, 1 / t)`` at which they move.

    horizon: T in samples.  t counts samples from 1, so the means are exact up to T samples.
    """
    count = means.count + 1
    rate = 1 / count.to(z.dtype).clamp(max=horizon)
    return Means(means.z + rate * z, means.y + rate * y, count), rate
