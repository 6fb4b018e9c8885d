"""What turns the drive of a hidden layer into activity at a time step: membranes, which may fire, updated in place."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba.extending import overload

from projectlib.engines.cpu.kernels.compiler import compiled


class SpikingCells(NamedTuple):
    """Neurons of ``projectlib.models.SpikingLayer``, (d,) each: their state, and its derivative d trace / dI."""

    v: np.ndarray
    rest: np.ndarray
    spikes: np.ndarray
    trace: np.ndarray
    derivative: np.ndarray


class Neuron(NamedTuple):
    """Constants of a neuron.  rate: dt / tau, 1 for an MLP.  The others, of spiking neurons only: trace_rate: dt /
    tau_trace, threshold, refractory: time steps, slope: of the surrogate gradient.
    """

    rate: float
    trace_rate: float = 0.0
    threshold: float = 1.0
    refractory: int = 0
    slope: float = 0.0


def integrate(cells, neuron, drive, bias, u):
    """Samples one after the other: u (N, d), of which ``LN(relu(u))`` is the activity, from a drive (N, d) and bias.

    cells: membranes (d,), or ``SpikingCells``.
    """
    raise NotImplementedError("compiled kernels only")


def pull_back(cells, neuron, signal, u, z, scale):
    """Gradient with respect to z turned, in place, into that with respect to W h + b.  All (d,).

    scale: the sample's inverse deviation times its share of the update.
    """
    raise NotImplementedError("compiled kernels only")


@overload(integrate)
def integrate_of(cells, neuron, drive, bias, u) -> Callable:
    """numba picks the kernel by what has the state."""
    function = fire if is_spiking(cells) else integrate_rows

    def call(cells, neuron, drive, bias, u):
        function(cells, neuron, drive, bias, u)

    return call


@overload(pull_back)
def pull_back_of(cells, neuron, signal, u, z, scale) -> Callable:
    function = pull_back_spiking if is_spiking(cells) else pull_back_relu

    def call(cells, neuron, signal, u, z, scale):
        function(cells, neuron, signal, u, z, scale)

    return call


def is_spiking(cells) -> bool:
    """Whether a numba type is that of spiking neurons."""
    return getattr(cells, "instance_class", None) is SpikingCells


# Membranes that do not fire, and MLPs ------------------------------------------------------------------------------


@compiled
def integrate_row(drive, bias, before, rate, u):
    """``u = u_before + rate (drive + b - u_before)``, all (out,); at a rate of 1 the membrane before is not read."""
    if rate == 1:
        for o in range(len(u)):
            u[o] = drive[o] + bias[o]
    else:
        for o in range(len(u)):
            u[o] = before[o] + rate * (drive[o] + bias[o] - before[o])


@compiled
def integrate_rows(membrane, neuron, drive, bias, u):
    """Sample after sample, on from membrane (out,), which ends as the last of u (N, out)."""
    rate = np.float32(neuron.rate)
    for p in range(len(u)):
        integrate_row(drive[p], bias, membrane, rate, u[p])
        membrane[:] = u[p]


@compiled
def pull_back_relu(membrane, neuron, signal, u, z, scale):
    scale *= np.float32(neuron.rate)
    pull_back_norm(signal, z, scale)
    for o in range(len(u)):
        signal[o] = np.float32(0) if u[o] <= 0 else signal[o]


@compiled
def pull_back_norm(signal, z, scale):
    """The gradient with respect to what was normalised to z, times scale.  Both (d,)."""
    width = len(signal)
    share, mean, along = np.float32(1 / width), np.float32(0), np.float32(0)
    for o in range(width):
        mean += share * signal[o]
        along += share * signal[o] * z[o]
    for o in range(width):
        signal[o] = scale * (signal[o] - mean - z[o] * along)


# Neurons that fire -------------------------------------------------------------------------------------------------


@compiled
def fire(cells, neuron, drive, bias, u):
    """u are their traces; as ``SpikingLayer.forward``."""
    rate, trace_rate = np.float32(neuron.rate), np.float32(neuron.trace_rate)
    threshold, steepness = np.float32(neuron.threshold), np.float32(neuron.slope)
    for p in range(len(u)):
        for o in range(len(bias)):
            is_free = cells.rest[o] <= 0
            v = cells.v[o] + rate * (drive[p, o] + bias[o] - cells.v[o]) if is_free else np.float32(0)
            above = v / threshold - np.float32(1)
            fires = above >= 0
            spike = np.float32(1) if fires else np.float32(0)
            near = np.float32(1) + steepness * abs(above)
            cells.derivative[o] = trace_rate * rate / (threshold * near * near) if is_free else np.float32(0)
            cells.trace[o] += trace_rate * (spike - cells.trace[o])
            cells.rest[o] = neuron.refractory if fires else max(cells.rest[o] - np.float32(1), np.float32(0))
            cells.spikes[o] = spike
            cells.v[o] = np.float32(0) if fires else v
            u[p, o] = cells.trace[o]


@compiled
def pull_back_spiking(cells, neuron, signal, u, z, scale):
    pull_back_norm(signal, z, scale)
    for o in range(len(u)):
        signal[o] *= cells.derivative[o]
