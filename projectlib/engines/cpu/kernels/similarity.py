"""Objectives that compare the samples of a plain batch, compiled by numba: their gradients with respect to activities.

They read how alike any two of N samples are, (N, N): Gaussian kernels of z for HSIC, cosines of z or of its groups for
similarity matching and plausible HSIC.  Matrices are sample-first for the products, which run over features; z and the
signal are feature-first, as everywhere.
"""

import math
from typing import NamedTuple

import numpy as np

from projectlib.engines.cpu.kernels.compiler import compiled
from projectlib.engines.cpu.kernels.products import multiply_over_features, outer_over_features
from projectlib.engines.cpu.kernels.vectors import LOG2_E, exp2

COSINE_EPSILON = np.float32(1e-12)  # as ``projectlib.hsic.COSINE_EPSILON``


class Groups(NamedTuple):
    """Groups that plausible HSIC compares (``divide_groups``).  number: 0 for none.  power: p.  smoothing: delta."""

    number: int
    power: float
    smoothing: float


class Comparison(NamedTuple):
    """What a batch's comparison writes on its way, d being the largest number of neurons.

    target: how alike samples shall be, in the scale of the objective.  rows: of what is compared, sample-first.
    """

    target: np.ndarray  # (N, N)
    alike: np.ndarray  # (N, N)
    rows: np.ndarray  # (N d,)
    gradients: np.ndarray  # (N d,) with respect to rows
    slopes: np.ndarray  # (N d,) of groups
    inverse_lengths: np.ndarray  # (N,)


def comparison(window, width):
    """Scratch memory for batches of N and layers of up to ``width`` neurons."""
    square, flat = (window, window), window * width
    return Comparison(*(np.zeros(shape, np.float32) for shape in (square, square, flat, flat, flat, window)))


# Targets: what inputs and labels alone determine -----------------------------------------------------------------


@compiled
def hsic_target(kx, ky, gamma, means, target):
    """``A = H (Kx - gamma Ky) H`` of a batch, all of them (N, N).  means: (N,) float64 scratch."""
    num, mean = len(target), 0.0
    for i in range(num):
        total = 0.0
        for p in range(num):
            total += kx[i, p] - gamma * ky[i, p]
        means[i] = total / num
        mean += means[i] / num
    for i in range(num):
        for p in range(num):
            target[i, p] = kx[i, p] - gamma * ky[i, p] - means[i] - means[p] + mean


@compiled
def cosine_target(labels, num_classes, target):
    """S(Y): cosines of centred one-hot labels, 1 where two are the same, else ``-1 / (classes - 1)``."""
    other = np.float32(-1 / (num_classes - 1))
    for i in range(len(target)):
        for p in range(len(target)):
            target[i, p] = np.float32(1) if labels[i] == labels[p] else other


@compiled
def plausible_target(labels, num_classes, label_weight, target):
    """``gamma / 2 (S(Y) - mean S(Y))``, which makes the objective of plausible HSIC, but for a constant,

    mean_ij (S(Z) - mean S(Z) - target)^2
    """
    cosine_target(labels, num_classes, target)
    mean = mean_of(target)
    for i in range(len(target)):
        for p in range(len(target)):
            target[i, p] = np.float32(label_weight / 2) * (target[i, p] - mean)


@compiled
def mean_of(matrix):
    total = 0.0
    for i in range(matrix.shape[0]):
        for p in range(matrix.shape[1]):
            total += matrix[i, p]
    return np.float32(total / matrix.size)


# Gradients with respect to activities ----------------------------------------------------------------------------


@compiled
def descend_hsic(z, sigma, work, signal):
    """The gradient of ``tr(A Kz) / (N - 1)^2`` with respect to z, A being the target.  z, signal: (d, N).

    ``dL/dz_i = -2 / (sigma^2 d (N-1)^2) sum_j A_ij k(z_i, z_j) (z_i - z_j)``, of differences, so that copies of a
    sample have no part in it, however small sigma is.
    """
    width, num = z.shape
    rows, gradients = work.rows[: num * width].reshape(num, width), work.gradients[: num * width].reshape(num, width)
    for f in range(width):
        for p in range(num):
            rows[p, f] = z[f, p]
            gradients[p, f] = 0
    scale = np.float32(-LOG2_E / (2 * sigma**2 * width))
    for i in range(num):
        for j in range(i):
            distance = np.float32(0)
            for f in range(width):
                difference = rows[i, f] - rows[j, f]
                distance += difference * difference
            weight = work.target[i, j] * exp2(scale * distance)
            for f in range(width):
                step = weight * (rows[i, f] - rows[j, f])
                gradients[i, f] -= step
                gradients[j, f] += step
    factor = np.float32(2 / (sigma**2 * width * max(num - 1, 1) ** 2))
    for f in range(width):
        for p in range(num):
            signal[f, p] = factor * gradients[p, f]


@compiled
def descend_cosines(z, is_centered, groups, work, signal):
    """The gradient of ``mean_ij (S(Z)_ij - mean - target_ij)^2`` with respect to z.  z, signal: (d, N).

    mean: of S(Z) where ``is_centered``, else 0.  With groups S is of their powers, and not of the neurons.
    """
    width, num = z.shape
    compared = groups.number if groups.number else width
    rows = work.rows[: num * compared].reshape(num, compared)
    gradients = work.gradients[: num * compared].reshape(num, compared)
    slopes = work.slopes[: num * compared].reshape(num, compared)
    if groups.number:
        divide_groups(z, groups, signal, rows, slopes)
    else:
        for f in range(width):
            for p in range(num):
                rows[p, f] = z[f, p]
    to_unit_length(rows, work.inverse_lengths)
    multiply_over_features(rows, rows, work.alike)
    mean = mean_of(work.alike) if is_centered else np.float32(0)
    factor = np.float32(4 / num**2)
    for i in range(num):
        for j in range(num):
            work.alike[i, j] = factor * (work.alike[i, j] - mean - work.target[i, j])
    outer_over_features(work.alike, rows, 0, gradients)
    for p in range(num):
        along = np.float32(0)
        for f in range(compared):
            along += gradients[p, f] * rows[p, f]
        for f in range(compared):
            gradients[p, f] = work.inverse_lengths[p] * (gradients[p, f] - along * rows[p, f])
    for f in range(width):
        for p in range(num):
            if groups.number:
                group = f // (width // compared)
                signal[f, p] *= slopes[p, group] * gradients[p, group]
            else:
                signal[f, p] = gradients[p, f]


@compiled
def to_unit_length(rows, inverse_lengths):
    """Rows less their means, over their lengths; one over these is left in inverse_lengths, (N,).  rows: (N, d)."""
    num, width = rows.shape
    share = np.float32(1 / width)
    for p in range(num):
        mean, square = np.float32(0), np.float32(0)
        for f in range(width):
            mean += share * rows[p, f]
        for f in range(width):
            rows[p, f] -= mean
            square += rows[p, f] * rows[p, f]
        inverse_lengths[p] = np.float32(1) / math.sqrt(square + COSINE_EPSILON)
        for f in range(width):
            rows[p, f] *= inverse_lengths[p]


@compiled
def divide_groups(z, groups, centered, powers, slopes):
    """Powers ``u_g = ((delta + sum_{i in g} (z_i - mean_g z)^2) / c)^p`` of groups of c neurons.

    z, centered: (d, N), the latter left with ``z_i - mean_g z``.  powers, slopes: (N, groups), the latter left with
    ``2 p u_g / (delta + sum)``, which times ``z_i - mean_g z`` is du_g/dz_i.
    """
    width, num = z.shape
    size = width // groups.number
    share, smoothing = np.float32(1 / size), np.float32(groups.smoothing)
    power, twice = np.float32(groups.power), np.float32(2 * groups.power)
    for group in range(groups.number):
        first, last = group * size, (group + 1) * size
        for p in range(num):
            mean, square = np.float32(0), smoothing
            for f in range(first, last):
                mean += share * z[f, p]
            for f in range(first, last):
                centered[f, p] = z[f, p] - mean
                square += centered[f, p] * centered[f, p]
            powers[p, group] = (share * square) ** power
            slopes[p, group] = twice * powers[p, group] / square
