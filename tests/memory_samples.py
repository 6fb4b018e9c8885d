"""Small memories of every kind, and random samples for them."""

import torch
from torch.nn.functional import one_hot

from projectlib.hsic import FORMS
from projectlib.modulators.class_means import ClassMeansModulator
from projectlib.modulators.covariance import CovarianceModulator
from projectlib.modulators.delta import DeltaModulator
from projectlib.modulators.modulator import Sample
from projectlib.modulators.remembered import RememberedModulator

GAMMA, SIGMAS, SIGMA = 3.0, (0.6, 0.4, 0.9), 0.5
CLASSES = 4
MEMORIES = {
    **{f"remembered-{form}": RememberedModulator(5, form, SIGMA, GAMMA, SIGMAS) for form in FORMS},
    "covariance": CovarianceModulator(horizon=6, weight=1.3),
    "delta": DeltaModulator(learning_rate=0.7, horizon=6),
    "class-means": ClassMeansModulator(rate=0.3, temperature=0.4),
}


def random_samples(num, seed=0, z_shape=(6,), classes=CLASSES):
    """Float64 samples (num, ...) as one ``Sample`` of stacks."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 7, dtype=torch.float64, generator=generator)
    y = one_hot(torch.randint(classes, (num,), generator=generator), CLASSES).double()
    return Sample(x, y, torch.randn(num, *z_shape, dtype=torch.float64, generator=generator))


def sample_at(samples, index):
    return Sample(*(part[index] for part in samples))
