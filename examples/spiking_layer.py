"""A spiking layer whose state is a tuple: membranes that fire, and the exponential traces of their spikes.

    biohsic-lif --config-dir examples/configs "plugins=[spiking_layer]" model=spiking_layer data=xor

The trace is the layer's activity: what the next layer receives and what the rule modulates.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from projectlib.models import DynamicLayer, LeakyIntegrator, Network
from projectlib.models.network import affine


class Spiking(NamedTuple):
    """v, trace: (N, num_out) membrane potentials and traces."""

    v: Tensor
    trace: Tensor


class SpikingLayer(DynamicLayer):
    """``v <- v + a (W h + b - v);  s = [v > 1];  v <- v - s;  trace <- trace + a (s - trace)``, a = dt/tau.

    A gradient sees [v > 1] as a fast sigmoid of slope 1 / (1 + 5 |v - 1|)^2 (Zenke and Ganguli 2018).
    """

    def __init__(self, num_in: int, num_out: int, rate: float, generator: torch.Generator):
        super().__init__()
        self.affine, self.rate = affine(num_in, num_out, generator), rate

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Spiking:
        zeros = self.affine.weight.new_zeros(batch_size, self.affine.out_features)
        return Spiking(zeros, zeros.clone())

    def forward(self, h: Tensor, u: Spiking) -> tuple[Tensor, Spiking]:
        v = u.v + self.rate * (self.affine(h.flatten(1)) - u.v)
        soft = (v - 1) / (1 + 5 * (v - 1).abs())
        spike = (v > 1).to(v.dtype) + soft - soft.detach()
        trace = u.trace + self.rate * (spike - u.trace)
        return trace, Spiking(v - spike.detach(), trace)


def spiking(input_shape: Sequence[int], num_classes: int, features: Sequence[int], rate: float, **options) -> Network:
    """Spiking layers of ``features`` neurons and a leaky readout.  rate: dt/tau.  options: generator, num_timesteps."""
    widths, generator = [math.prod(input_shape), *features], options["generator"]
    hidden = [SpikingLayer(*in_and_out, rate, generator) for in_and_out in pairwise(widths)]
    readout = LeakyIntegrator(widths[-1], num_classes, rate, False, generator)
    return Network(*hidden, readout, num_timesteps=options["num_timesteps"])
