"""What lies between two convolutions of a local step, compiled by numba: one pass where PyTorch takes a dozen.

Images are channels last and their pixels flattened, (pixels, channels), so that a pixel's channels, which layer norm
reads together, lie side by side.
"""

import math

import numpy as np

from projectlib.engines.cpu.kernels.compiler import compiled, entry
from projectlib.engines.cpu.kernels.mlp import LAYER_NORM_EPS


@entry
@compiled
def activate_window(a, z, signal, weights, sigma):
    """``z = LN over channels of relu(a)`` of a window, and the signal of its newest sample pulled back to a.

    a, z: (N, pixels, channels).  signal: (pixels, channels), the gradient with respect to the newest a.  weights: (N,)
    of the modulatory signal, as ``projectlib.hsic.modulation_weights`` gives them.  sigma: its bandwidth.  Writes z and
    signal.
    """
    num, pixels, channels = a.shape
    newest = num - 1
    inverse_deviation, unused = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    factors = np.empty(num, np.float32)
    spread = 2 * sigma**2 * pixels * channels
    scale = 4 / (spread * newest**2)
    for p in range(newest, -1, -1):
        activate(a[p], z[p], inverse_deviation if p == newest else unused)
        factors[p] = weights[p] * math.exp(-squared_distance(z[newest], z[p]) / spread) * scale
    modulate(z, factors, signal)
    pull_back(signal, a[newest], z[newest], inverse_deviation)


@compiled
def activate(a, z, inverse_deviation):
    """``z = LN(relu(a))`` of one image, (pixels, channels).  NaN stays NaN."""
    pixels, channels = a.shape
    share = np.float32(1 / channels)
    for i in range(pixels):
        mean, variance = np.float32(0), np.float32(0)
        for c in range(channels):
            z[i, c] = np.float32(0) if a[i, c] < 0 else a[i, c]
            mean += share * z[i, c]
        for c in range(channels):
            z[i, c] -= mean
            variance += share * z[i, c] * z[i, c]
        inverse_deviation[i] = np.float32(1) / math.sqrt(variance + LAYER_NORM_EPS)
        for c in range(channels):
            z[i, c] *= inverse_deviation[i]


@compiled
def squared_distance(z, other):
    """Of two images (pixels, channels): summed in float32 within a pixel and in float64 over pixels."""
    total = 0.0
    for i in range(z.shape[0]):
        of_pixel = np.float32(0)
        for c in range(z.shape[1]):
            difference = z[i, c] - other[i, c]
            of_pixel += difference * difference
        total += of_pixel
    return total


@compiled
def modulate(z, factors, signal):
    """``signal = sum_p factor_p (z_N - z_p)``.  z: (N, pixels, channels).  signal: (pixels, channels)."""
    newest = z.shape[0] - 1
    for i in range(z.shape[1]):
        signal[i] = 0
        for p in range(newest):
            for c in range(z.shape[2]):
                signal[i, c] += factors[p] * (z[newest, i, c] - z[p, i, c])


@compiled
def pull_back(signal, a, z, inverse_deviation):
    """Gradient with respect to z turned, in place, into that with respect to a.  All of one image."""
    pixels, channels = a.shape
    share = np.float32(1 / channels)
    for i in range(pixels):
        mean, along = np.float32(0), np.float32(0)
        for c in range(channels):
            mean += share * signal[i, c]
            along += share * signal[i, c] * z[i, c]
        for c in range(channels):
            slope = inverse_deviation[i] * (signal[i, c] - mean - z[i, c] * along)
            signal[i, c] = np.float32(0) if a[i, c] <= 0 else slope
