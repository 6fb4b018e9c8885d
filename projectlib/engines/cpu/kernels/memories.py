"""Memories beside hidden layers, updated in place: read, which gives the signal xi of the newest sample, then written.

Everything is float32.  Loops that sum store nothing besides: where arrays happen to lie close together, LLVM takes
those that store for overlapping, and then adds up in another order.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba.extending import overload

from projectlib.engines.cpu.kernels.compiler import compiled
from projectlib.engines.cpu.kernels.hsic import WEIGHTED, compare_labels
from projectlib.engines.cpu.kernels.vectors import LOG2_E, exp, exp2

SMALLEST_NORM = np.float32(1e-3)  # of class means, as in ``projectlib.modulators.class_means``


# What a layer remembers, as in ``projectlib.modulators``, updated in place ------------------------------------------


class Remembered(NamedTuple):
    """Rings of M samples, number t in row ``t % M``: labels y (M, classes) one-hot and activations z (M, d)."""

    y: np.ndarray
    z: np.ndarray


class Covariances(NamedTuple):
    """mean_z (d,), mean_y (classes,), zz (d, d), yz (classes, d)."""

    mean_z: np.ndarray
    mean_y: np.ndarray
    zz: np.ndarray
    yz: np.ndarray


class Predictor(NamedTuple):
    """mean_z (d,), mean_y (classes,), q (classes, d)."""

    mean_z: np.ndarray
    mean_y: np.ndarray
    q: np.ndarray


class ClassMeans(NamedTuple):
    """means (classes, d)."""

    means: np.ndarray


class RememberedSettings(NamedTuple):
    """form: of the signal (``kernels.hsic``).  sigma: bandwidth of z."""

    form: int
    sigma: float


class CovarianceSettings(NamedTuple):
    horizon: float
    weight: float


class DeltaSettings(NamedTuple):
    learning_rate: float
    horizon: float


class ClassMeansSettings(NamedTuple):
    rate: float
    temperature: float


# Memories: read, then written -------------------------------------------------------------------------------------


def scratch_for(num_remembered, width, classes):
    """What ``supply`` needs for a memory of layers of up to that width."""
    return np.zeros((3, max(num_remembered, width, classes)), np.float32)


def supply(memory, settings, z, label, count, weights, signal, scratch):
    """Leave xi (d,) of the newest z (d,) in signal, and remember the sample.

    count: samples that were remembered before.  weights: (M,) c of the remembered samples, oldest first, for a signal
    that follows from inputs and labels.  scratch: of ``scratch_for``.
    """
    raise NotImplementedError("compiled kernels only")


@overload(supply)
def supply_from(memory, settings, z, label, count, weights, signal, scratch) -> Callable:
    """numba picks the kernel by what is remembered."""
    function = KERNELS[memory.instance_class]

    def call(memory, settings, z, label, count, weights, signal, scratch):
        function(memory, settings, z, label, count, weights, signal, scratch)

    return call


@compiled
def remembered_signal(memory, settings, z, label, count, weights, signal, scratch):
    """``xi = sum_p factor_p (z_N - z_p)``, factor_p being what ``hsic.modulation`` weights differences by."""
    size, width = memory.z.shape
    newest, distances, factor = count % size, scratch[0, :size], scratch[1, :size]
    memory.z[newest] = z
    memory.y[newest] = 0
    memory.y[newest, label] = 1
    signal[:] = 0
    if count + 1 < size:
        return
    for p in range(size):
        distance = np.float32(0)
        for i in range(width):
            difference = z[i] - memory.z[p, i]
            distance += difference * difference
        distances[p] = distance
    spread_of_z = np.float32(settings.sigma**2 * width)
    if settings.form == WEIGHTED:
        scale = np.float32(-LOG2_E / 2) / spread_of_z
        for p in range(size):
            factor[p] = exp2(scale * distances[p])
        for p in range(size):
            factor[p] *= weights[(p - newest - 1) % size] * (np.float32(2) / spread_of_z)
    else:
        compare_labels(distances, memory.y[:, label], newest, settings.form, spread_of_z, factor)
    for p in range(size):
        for i in range(width):
            signal[i] += factor[p] * (z[i] - memory.z[p, i])


@compiled
def move_means(memory, z, label, count, horizon, scratch):
    """Leave z~ and y~ in rows of scratch and move the means; returns (their rate, whether the label had been seen)."""
    width, classes = len(memory.mean_z), len(memory.mean_y)
    rate = np.float32(1 / min(float(count + 1), horizon))
    share = np.float32(1 / math.sqrt(width))
    seen = memory.mean_y[label] > 0
    for i in range(width):
        scratch[0, i] = share * z[i] - memory.mean_z[i]
        memory.mean_z[i] += rate * scratch[0, i]
    for c in range(classes):
        scratch[1, c] = (np.float32(1) if c == label else np.float32(0)) - memory.mean_y[c]
        memory.mean_y[c] += rate * scratch[1, c]
    return rate, seen


@compiled
def covariance_signal(memory, settings, z, label, count, weights, signal, scratch):
    """``xi = w C_zz z~ - C_yz' y~``."""
    width, classes = len(memory.mean_z), len(memory.mean_y)
    rate, seen = move_means(memory, z, label, count, settings.horizon, scratch)
    keep, weight = np.float32(1) - rate, np.float32(settings.weight)
    near, target = scratch[0], scratch[1]
    for i in range(width):
        entry, step = np.float32(0), rate * near[i]
        for j in range(width):
            entry += memory.zz[i, j] * near[j]
        for j in range(width):
            memory.zz[i, j] = keep * memory.zz[i, j] + step * near[j]
        signal[i] = weight * entry
    for c in range(classes):
        error, step = target[c], rate * target[c]
        for i in range(width):
            signal[i] -= error * memory.yz[c, i]
            memory.yz[c, i] = keep * memory.yz[c, i] + step * near[i]
    if not seen:
        signal[:] = 0


@compiled
def delta_signal(memory, settings, z, label, count, weights, signal, scratch):
    """``e = Q z~ - y~;   xi = Q' e;   Q <- Q - eta e z~'``."""
    width, classes = len(memory.mean_z), len(memory.mean_y)
    _, seen = move_means(memory, z, label, count, settings.horizon, scratch)
    near, target = scratch[0], scratch[1]
    signal[:] = 0
    for c in range(classes):
        error = -target[c]
        for i in range(width):
            error += memory.q[c, i] * near[i]
        step = np.float32(settings.learning_rate) * error
        for i in range(width):
            signal[i] += error * memory.q[c, i]
            memory.q[c, i] -= step * near[i]
    if not seen:
        signal[:] = 0


@compiled
def class_means_signal(memory, settings, z, label, count, weights, signal, scratch):
    """``xi = sum_c (softmax_c(z . m^_c / (sqrt(d) tau)) - [c = y]) m^_c``; an unseen class has a factor of zero."""
    means, middle, inverse, factor = memory.means, scratch[0], scratch[1], scratch[2]
    classes, width = means.shape
    num_seen = 0
    middle[:width] = 0
    for c in range(classes):
        size = np.float32(0)
        for i in range(width):
            size += abs(means[c, i])
        for i in range(width):
            middle[i] += means[c, i]
        factor[c] = size
        num_seen += size != 0
    known = factor[label] != 0
    share = np.float32(1 / max(num_seen, 1))
    for i in range(width):
        middle[i] *= share
    scale = np.float32(1 / (math.sqrt(width) * settings.temperature))
    peak = np.float32(-np.inf)
    for c in range(classes):
        length, along = np.float32(0), np.float32(0)
        for i in range(width):
            direction = means[c, i] - middle[i]
            length += direction * direction
            along += direction * z[i]
        inverse[c] = np.float32(0) if factor[c] == 0 else np.float32(1) / (math.sqrt(length) + SMALLEST_NORM)
        factor[c] = np.float32(-np.inf) if factor[c] == 0 else scale * along * inverse[c]
        peak = factor[c] if factor[c] > peak else peak
    whole = np.float32(0)
    for c in range(classes):
        factor[c] = exp(factor[c] - peak)
    for c in range(classes):
        whole += factor[c]
    signal[:] = 0
    if known:
        for c in range(classes):
            weight = (factor[c] / whole - (np.float32(1) if c == label else np.float32(0))) * inverse[c]
            for i in range(width):
                signal[i] += weight * (means[c, i] - middle[i])
    rate = np.float32(settings.rate)
    for i in range(width):
        means[label, i] += rate * (z[i] - means[label, i])


KERNELS = {
    Remembered: remembered_signal,
    Covariances: covariance_signal,
    Predictor: delta_signal,
    ClassMeans: class_means_signal,
}
