"""A data set of one's own: two interleaved half circles.

    biohsic --config-dir examples/configs "plugins=[two_moons]" data=two_moons

A data set is a function that returns a ``Dataset`` of tensors, already normalised; its shape and its number of classes
are found from there.
"""

import numpy as np
import torch
from sklearn.datasets import make_moons

from projectlib.data import Dataset, Split

NUM_TRAINING, NUM_TEST = 900, 100


def two_moons(noise: float, seed: int) -> Dataset:
    """1000 points on two half circles, one a class, with normal noise of the given sd; the last 100 are for testing."""
    points, labels = make_moons(NUM_TRAINING + NUM_TEST, noise=noise, random_state=seed)
    x, y = torch.from_numpy(np.asarray(points, np.float32)), torch.from_numpy(labels)
    train, test = (Split(x[part], y[part]) for part in (slice(NUM_TRAINING), slice(NUM_TRAINING, None)))
    return Dataset("two_moons", train, test, num_classes=2)
