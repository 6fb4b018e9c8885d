"""Leaky integrate-and-fire neurons: membranes with a threshold, whose activity is the trace of their spikes."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from projectlib.models.leaky_integrator import LeakyIntegrator, membrane_rate
from projectlib.models.network import EPSILON, DynamicLayer, Network, affine, check_features
from projectlib.values import is_number, require


class SpikingState(NamedTuple):
    """State of a layer's neurons at one time step, (N, num_out) each.

    v: membrane potentials, after the reset.  rest: time steps of the refractory period that are left.  spikes: 1 where
    a neuron fired.  trace: of its spikes.
    """

    v: Tensor
    rest: Tensor
    spikes: Tensor
    trace: Tensor


class SpikingLayer(DynamicLayer):
    """One time step of leaky integrate-and-fire neurons, (N, ...) -> (N, num_out) (Gerstner et al. 2014, chapter 1)::

        v     <- v + dt/tau (W h + b - v)       0 for ``refractory`` time steps after a spike
        s      = [v >= theta];   v <- 0 where s
        trace <- trace + dt/tau_trace (s - trace)
        z      = LN(trace)

    A constant drive I above theta makes it fire every ``refractory + ceil(log(1 - theta / I) / log(1 - dt/tau))`` time
    steps.  A gradient meets the step [v >= theta] as a fast sigmoid (SuperSpike, Zenke and Ganguli 2018)::

        ds/dv = 1 / (theta (1 + slope |v / theta - 1|)^2)

    and everything that is older than the time step as a constant: what a neuron has to know for its update is its own
    membrane, trace and input of the moment, and the three numbers that layer norm shares over the layer.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        rate: float,
        trace_rate: float,
        threshold: float,
        refractory: int,
        slope: float,
        generator: torch.Generator,
    ):
        super().__init__()
        self.affine = affine(num_in, num_out, generator)
        self.rate, self.trace_rate = rate, trace_rate  # dt/tau, dt/tau_trace
        self.threshold, self.refractory, self.slope = threshold, refractory, slope

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> SpikingState:
        return SpikingState(
            *(self.affine.weight.new_zeros(batch_size, self.affine.out_features) for _ in SpikingState._fields)
        )

    def forward(self, h: Tensor, u: SpikingState) -> tuple[Tensor, SpikingState]:
        v = torch.where(u.rest > 0, 0, u.v + self.rate * (self.affine(h.flatten(1)) - u.v))
        above = v / self.threshold - 1
        soft = above / (1 + self.slope * above.abs())
        fired = (above >= 0).to(v.dtype)
        trace = u.trace + self.trace_rate * (fired + (soft - soft.detach()) - u.trace)
        rest = torch.where(fired > 0, self.refractory, (u.rest - 1).clamp(min=0))
        z = layer_norm(trace, trace.shape[-1:], eps=EPSILON)
        return z, SpikingState(torch.where(fired > 0, 0, v), rest, fired, trace)


def spiking_mlp(
    input_shape: Sequence[int],
    num_classes: int,
    features: Sequence[int],
    time_constant: float,
    trace_time_constant: float,
    threshold: float,
    refractory: float,
    slope: float,
    time_step: float,
    num_timesteps: int,
    generator: torch.Generator,
) -> Network:
    """Spiking layers of ``features`` neurons each and a leaky readout that does not fire.

    time_constant, trace_time_constant, time_step: tau, tau_trace and dt in seconds, 0 < dt <= both.  threshold: theta,
    above 0.  refractory: seconds, rounded to time steps.  slope: of the fast sigmoid, at least 0.  num_timesteps: how
    long a sample is presented.  generator: draws the weights.  Raises UserError for invalid values.
    """
    rate = membrane_rate(time_constant, time_step)
    trace_rate = membrane_rate(trace_time_constant, time_step, "model.trace_time_constant")
    require(is_number(threshold) and threshold > 0, "model.threshold", threshold, "a potential above 0")
    require(is_number(refractory) and refractory >= 0, "model.refractory", refractory, "seconds, at least 0")
    require(is_number(slope) and slope >= 0, "model.slope", slope, "a number of at least 0")
    widths = [math.prod(input_shape), *check_features(features)]
    neuron = rate, trace_rate, threshold, round(refractory / time_step), slope
    return Network(
        *(SpikingLayer(*num_in_and_out, *neuron, generator) for num_in_and_out in pairwise(widths)),
        LeakyIntegrator(widths[-1], num_classes, rate, False, generator),
        num_timesteps=num_timesteps,
    )
