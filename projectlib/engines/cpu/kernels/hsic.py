"""HSIC and the modulatory signal, compiled by numba.

Arrays of a window are feature-first, (features, N), and float32.
"""

import math

import numpy as np

from projectlib.engines.cpu.kernels.compiler import compiled, entry
from projectlib.engines.cpu.kernels.vectors import LANES, LOG2_E, exp, exp2, load, spread, store

LAGS = 4  # of a tile of pairs
LOWEST = np.float32(-np.finfo(np.float32).max)
WEIGHTED, PARZEN, CONTRASTIVE = range(3)
"""What a signal is made of: weights that inputs and labels determine, or kernels of z and which labels are the same."""


def form_of(signal: str | None) -> int:
    """Which of these a form of ``projectlib.hsic.modulation`` is."""
    return {"parzen": PARZEN, "contrastive": CONTRASTIVE}.get(signal or "", WEIGHTED)


# Shared by all members: what depends on the samples alone ------------------------------------------------------


@entry
@compiled
def lagged_kernel_values(samples, window, sigma):
    """Of each sample with those before it: (samples, N), ``[i, j] = k_sigma(x_i, x_{i-j})``.

    A window's kernel matrix slides along it: only the newest row is new. samples: (n, d), in the order of presentation.
    """
    num, features = samples.shape
    scale = np.float32(-1 / (2 * sigma**2 * features))
    lags = np.ones((num, window), np.float32)
    for i in range(num):
        for j in range(1, min(window, i + 1)):
            distance = np.float32(0)
            for k in range(features):
                difference = samples[i, k] - samples[i - j, k]
                distance += difference * difference
            lags[i, j] = exp(scale * distance)
    return lags


@compiled
def window_kernel_matrices(lags, labels, first, other, kx, ky):
    """Fill kx and ky, (N, N), of the window that begins at sample ``first``; other: ky of unequal labels."""
    for i in range(kx.shape[0]):
        for p in range(i + 1):
            kx[i, p] = kx[p, i] = lags[first + i, i - p]
            ky[i, p] = ky[p, i] = np.float32(1) if labels[first + i] == labels[first + p] else other


@compiled
def label_kernel_value(sigma, num_classes):
    """k_sigma of two unequal one-hot labels, whose squared distance is 2."""
    return np.float32(math.exp(-1 / (sigma**2 * num_classes)))


@entry
@compiled
def scaled_modulation_weights(lags, labels, num_classes, window, stride, gamma, sigma_y, exact):
    """The part of the modulatory signal that the data alone determine: (steps, N) weights c, with

        xi = 2 / (sigma_z^2 d) sum_p c_p k_z(z_N, z_p) (z_N - z_p)

    They are those of ``projectlib.hsic.modulation_weights`` divided by (N-1)^2, which is outside of the sum there.

    exact: c_p = -A[N,p] / (N-1)^2;  published: c_p = (C[p,p] + C[N,N]) / (N (N-1)^2). Row means and not centred
    matrices are all that either needs.
    """
    steps = max(0, (len(labels) - window) // stride + 1)
    other = label_kernel_value(sigma_y, num_classes)
    kx, ky = np.empty((window, window), np.float32), np.empty((window, window), np.float32)
    means = np.empty(window)
    weights = np.empty((steps, window), np.float32)
    for step in range(steps):
        window_kernel_matrices(lags, labels, step * stride, other, kx, ky)
        for i in range(window):
            total = 0.0
            for p in range(window):
                total += kx[i, p] - gamma * ky[i, p]
            means[i] = total / window
        newest, mean = means[-1], means.mean()
        for p in range(window):
            if exact:
                weight = means[p] + newest - mean - (kx[-1, p] - gamma * ky[-1, p])
            else:
                weight = (2 * (1 - gamma) - means[p] - newest) / window
            weights[step, p] = weight / (window - 1) ** 2
    return weights


# HSIC of what a layer makes of a window ---------------------------------------------------------------------------
#
# Every pair of samples is once (i, i + lag), counted round the window, with a lag of at most N / 2. Pairs come in tiles
# of LAGS by LANES, so that every distance is summed in a register; places in a tile that are no pair have weight zero.


def num_pairs(window: int) -> int:
    """Places in all tiles of a window of N samples."""
    return rounded_up(window, LANES) * rounded_up(window // 2, LAGS)


def rounded_up(num: int, multiple: int) -> int:
    """The least multiple that is not below num."""
    return -(-num // multiple) * multiple


def num_places(window: int) -> int:
    """Places that tiles reach into: the window, and its beginning again."""
    return rounded_up(window, LANES) + rounded_up(window // 2, LAGS)


@compiled
def centered_pairs(k, means, pairs):
    """``H K H`` of a symmetric k, (N, N), at the pairs.  means: (N,) float64 scratch.  pairs: (``num_pairs(N)``,).

    Rounded once: what float32 means would leave in the sum of all entries, which is 0, ``hsic`` would add up.
    """
    num = k.shape[0]
    mean = 0.0
    for i in range(num):
        entry = 0.0
        for p in range(num):
            entry += k[i, p]
        means[i] = entry / num
        mean += means[i] / num
    pair = 0
    for first in range(0, num, LANES):
        for least in range(1, num // 2 + 1, LAGS):
            for lag in range(least, least + LAGS):
                last = lag if 2 * lag == num else num  # half way round every pair would come twice
                for i in range(first, first + LANES):
                    pairs[pair] = 0
                    if i < last and 2 * lag <= num:
                        p = (i + lag) % num
                        pairs[pair] = k[i, p] + mean - means[i] - means[p]
                    pair += 1


@compiled
def squared_distances(z, num, distances):
    """``|z_i - z_p|^2`` at the pairs of num samples.  z: (features, ``num_places(num)``), on round the window."""
    pair = 0
    zero = spread(np.float32(0))
    for first in range(0, num, LANES):
        for lag in range(1, num // 2 + 1, LAGS):
            d0 = d1 = d2 = d3 = zero
            for f in range(z.shape[0]):
                place = load(z, (f, first))
                difference = place - load(z, (f, first + lag))
                d0 += difference * difference
                difference = place - load(z, (f, first + lag + 1))
                d1 += difference * difference
                difference = place - load(z, (f, first + lag + 2))
                d2 += difference * difference
                difference = place - load(z, (f, first + lag + 3))
                d3 += difference * difference
            store(distances, (pair,), d0)
            store(distances, (pair + LANES,), d1)
            store(distances, (pair + 2 * LANES,), d2)
            store(distances, (pair + 3 * LANES,), d3)
            pair += LAGS * LANES


@compiled
def hsic(kx_pairs, ky_pairs, z, sigma, around, distances):
    """(HSIC(X, Z), HSIC(Y, Z)) of z, (features, N), with the ``centered_pairs`` of kx and ky.

    ``tr(Kx H Kz H) = sum (H Kx H) * Kz``, and as H Kx H sums to zero, Kz - 1 serves as well as Kz: it vanishes on
    the diagonal, which leaves twice the sum over pairs.  around: (features or more, ``num_places(N)``) scratch
    that began as zeros.  distances: (``num_pairs(N)``,) scratch.
    """
    features, num = z.shape
    for f in range(features):
        for p in range(num):
            around[f, p] = z[f, p]
        for p in range(num // 2):
            around[f, num + p] = z[f, p]
    squared_distances(around[:features], num, distances)
    scale = np.float32(-LOG2_E / (2 * sigma**2 * features))
    hsic_x, hsic_y = np.float32(0), np.float32(0)
    for pair in range(len(kx_pairs)):
        kz = exp2(scale * distances[pair]) - np.float32(1)
        hsic_x += kx_pairs[pair] * kz
        hsic_y += ky_pairs[pair] * kz
    share = 2 / max(num - 1, 1) ** 2  # the HSIC of a single sample is 0
    return share * hsic_x, share * hsic_y


# The modulatory signal -------------------------------------------------------------------------------------------


@compiled
def compare_labels(distances, same, newest, form, width, weights):
    """What a signal of labels weights ``z_N - z_p`` by, from ``distances = |z_N - z_p|^2``, which are overwritten.

    As ``projectlib.hsic.parzen_weights`` and ``contrastive_weights``, divided by width, sigma^2 d; all 0 where they say
    nothing.  Kernels are relative to the nearest one's, those of the newest label to the nearest of these.
    distances, weights: (N,).  same: (N,), 1 where a label is the newest's, its own among them, else 0.
    """
    scale, num = np.float32(-LOG2_E / 2) / width, len(distances)
    for p in range(num):
        distances[p] *= scale
    log_k = distances
    log_k[newest] = LOWEST
    nearest, nearest_same, num_same = LOWEST, LOWEST, np.float32(-1)  # the newest is among them
    for p in range(num):
        nearest = max(nearest, log_k[p])
        if same[p] > 0:
            nearest_same = max(nearest_same, log_k[p])
            num_same += np.float32(1)
    if num_same == 0:
        weights[:num] = 0
        return
    total, total_same = np.float32(0), num_same if form == CONTRASTIVE else np.float32(0)
    for p in range(num):
        weights[p] = exp2(log_k[p] - nearest)
    for p in range(num):
        total += weights[p]
    if form == PARZEN:
        for p in range(num):
            if same[p] > 0:
                log_k[p] = exp2(log_k[p] - nearest_same)
        for p in range(num):
            if same[p] > 0:
                total_same += log_k[p]
    share, share_same = np.float32(1) / (total * width), np.float32(1) / (total_same * width)
    for p in range(num):
        weights[p] *= -share
    for p in range(num):
        if same[p] > 0:  # of the newest itself the difference is 0
            weights[p] += share_same * (log_k[p] if form == PARZEN else np.float32(1))


@compiled
def modulate(z, weights, form, sigma, signal, places):
    """The signal xi of a hidden layer, written to the newest place of signal.  z, signal: (out, N).

    ``xi = 2 / (sigma^2 d) sum_p c_p k_z(z_N, z_p) (z_N - z_p)``, c: (N,)
    ``scaled_modulation_weights``; of the other forms ``sum_p factor_p (z_N - z_p)`` by ``compare_labels``, weights
    being 1 where a label is the newest's, else 0.  places: (2 or more, N) scratch.
    """
    features, num = z.shape
    width = np.float32(2 * sigma**2 * features)
    distances, factor = places[0], places[1]
    for p in range(num):
        distances[p] = 0
    for f in range(features):
        for p in range(num):
            difference = z[f, num - 1] - z[f, p]
            distances[p] += difference * difference
    if form == WEIGHTED:
        for p in range(num):
            factor[p] = weights[p] * exp(-distances[p] / width) * (np.float32(4) / width)
    else:
        compare_labels(distances, weights, num - 1, form, width / np.float32(2), factor)
    for f in range(features):
        xi = np.float32(0)
        for p in range(num):
            xi += factor[p] * (z[f, num - 1] - z[f, p])
        signal[f, num - 1] = xi
