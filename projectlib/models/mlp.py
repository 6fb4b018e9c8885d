"""Multi-layer perceptron, ``z = LN(relu(W h + b))`` with a readout ``W h + b``, and the purely linear model."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from projectlib.models.network import Network, affine, check_features, normalized_relu


class DenseLayer(nn.Module):
    """``z = LN(relu(W h + b))``: (N, ...) -> (N, num_out), features flattened."""

    def __init__(self, num_in: int, num_out: int, generator: torch.Generator):
        super().__init__()
        self.affine = affine(num_in, num_out, generator)

    def forward(self, h: Tensor) -> Tensor:
        return normalized_relu(self.affine(h.flatten(1)))


class Readout(nn.Module):
    """``W h + b``: (N, ...) -> (N, num_classes), features flattened."""

    def __init__(self, num_in: int, num_classes: int, generator: torch.Generator):
        super().__init__()
        self.affine = affine(num_in, num_classes, generator)

    def forward(self, h: Tensor) -> Tensor:
        return self.affine(h.flatten(1))


def mlp(input_shape: Sequence[int], num_classes: int, features: Sequence[int], generator: torch.Generator) -> Network:
    """Hidden layers of ``features`` neurons each and a readout.

    input_shape: of one sample, flattened.  generator: draws the weights, first layer first.
    Raises UserError for features that are no widths.
    """
    widths = [math.prod(input_shape), *check_features(features)]
    hidden = [DenseLayer(num_in, num_out, generator) for num_in, num_out in pairwise(widths)]
    return Network(*hidden, Readout(widths[-1], num_classes, generator))


def linear(input_shape: Sequence[int], num_classes: int, generator: torch.Generator) -> Network:
    """A readout with no hidden layer before it: (N, ...) -> (N, num_classes)."""
    return mlp(input_shape, num_classes, (), generator)
