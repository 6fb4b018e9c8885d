"""Multi-layer perceptron whose neurons are normalised by the activity of their group."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from projectlib.errors import UserError
from projectlib.models.mlp import Readout
from projectlib.models.network import Network, affine, check_features
from projectlib.values import is_count, is_number, require


class DivisiveLayer(nn.Module):
    """Groups g of c neurons under the divisive normalisation of Pogodin and Latham (2020), (N, ...) -> (N, num_out)::

        a = lrelu(W h + b),   a~ = a - mean_g a,   z = a~ / ((delta + sum_{i in g} a~_i^2) / c)^p

    lrelu has a slope of 0.01 below 0.
    """

    def __init__(
        self, num_in: int, num_out: int, groups: int, power: float, smoothing: float, generator: torch.Generator
    ):
        super().__init__()
        self.affine = affine(num_in, num_out, generator)
        self.groups, self.power, self.smoothing = groups, power, smoothing

    def forward(self, h: Tensor) -> Tensor:
        a = leaky_relu(self.affine(h.flatten(1)))
        members = a.reshape(len(a), self.groups, -1)
        members = members - members.mean(2, keepdim=True)
        spread = (members.square().sum(2, keepdim=True) + self.smoothing) / members.shape[2]
        return (members / spread**self.power).flatten(1)


def divisive_mlp(
    input_shape: Sequence[int],
    num_classes: int,
    features: Sequence[int],
    groups: int,
    power: float,
    smoothing: float,
    generator: torch.Generator,
) -> Network:
    """Hidden layers of ``features`` neurons each, in as many ``groups``, and a readout.

    power, smoothing: p and delta.  generator: draws the weights.  Raises UserError for invalid values, and for
    layers that cannot be cut into equal groups.
    """
    widths = [math.prod(input_shape), *check_features(features)]
    require(is_count(groups), "model.groups", groups, "a whole number of at least 1")
    require(is_number(power) and power >= 0, "model.power", power, "a number of at least 0")
    require(is_number(smoothing) and smoothing > 0, "model.smoothing", smoothing, "a number above 0")
    if uneven := [width for width in widths[1:] if width % groups or width == groups]:
        raise UserError(
            f"model.groups is {groups}, but a hidden layer has {uneven[0]} neurons; expected a number that cuts each "
            "layer into equal groups of at least 2"
        )
    hidden = [
        DivisiveLayer(num_in, num_out, groups, power, smoothing, generator) for num_in, num_out in pairwise(widths)
    ]
    return Network(*hidden, Readout(widths[-1], num_classes, generator))
