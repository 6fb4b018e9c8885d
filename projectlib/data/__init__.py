"""Data sets as tensors, and the windows and batches that a step reads from them.

``loaders`` fills a ``Dataset``, ``prepare`` cuts it, a ``Sampler`` draws an ``Epoch``, ``gather`` reads one step.
A data set of one's own is a function that returns a ``Dataset``, named by ``data.source._target_`` in a yaml.
"""

from projectlib.data.augmentation import Augmentation
from projectlib.data.dataset import Dataset, Split, prepare
from projectlib.data.loaders import cifar10, digits, downloads, fashion_mnist, folder, linear, mnist, mnist_5000, xor
from projectlib.data.windows import Epoch, Sampler, gather

__all__ = [
    "Augmentation",
    "Dataset",
    "Epoch",
    "Sampler",
    "Split",
    "cifar10",
    "digits",
    "downloads",
    "fashion_mnist",
    "folder",
    "gather",
    "linear",
    "mnist",
    "mnist_5000",
    "prepare",
    "xor",
]
