"""What a stream of images needs between two products: what a convolution reads, blocks, their memory, pulling back.

Images are channels last, (N, H, W, channels).
"""

import math
from typing import NamedTuple

import numpy as np

from projectlib.engines.cpu.kernels.cnn import activate, pull_back
from projectlib.engines.cpu.kernels.compiler import compiled, entry
from projectlib.engines.cpu.kernels.memories import supply

TINY = np.finfo(np.float32).tiny


class Blocks(NamedTuple):
    """What is known of a layer's blocks, as in ``projectlib.modulators.memory``: mean (d,) and scale (1,)."""

    mean: np.ndarray
    scale: np.ndarray


class Work(NamedTuple):
    """Scratch memory: blocks as the memory sees them (d,), and that of the memory's own, by ``scratch_for``."""

    seen: np.ndarray
    scratch: np.ndarray


@entry
@compiled
def neighbourhoods(h, rows):
    """What a 3 x 3 convolution with padding 1 reads for each place of images, as a matrix: a product does the rest.

    h: (N, H, W, channels).  rows: (N, H, W, channels, 3, 3), of which the last three are in the order of its weights.
    """
    num, height, width, channels = h.shape
    for p in range(num):
        for i in range(height):
            for j in range(width):
                place = rows[p, i, j]
                for k in range(3):
                    for m in range(3):
                        y, x = i + k - 1, j + m - 1
                        if 0 <= y < height and 0 <= x < width:
                            for c in range(channels):
                                place[c, k, m] = h[p, y, x, c]
                        else:
                            for c in range(channels):
                                place[c, k, m] = 0


@entry
@compiled
def activate_images(a, z, inverse_deviation, means):
    """``z = LN over channels of relu(a)`` of images, and z's means over blocks.

    a, z: (N, H, W, channels).  inverse_deviation: (N, H, W).  means: (N, rows, columns, channels); of an empty block 0.
    """
    num, height, width, channels = a.shape
    rows, columns = means.shape[1:3]
    size = np.zeros((rows, columns), np.float32)
    for i in range(height):
        for j in range(width):
            size[i * rows // height, j * columns // width] += 1
    means[:] = 0
    for p in range(num):
        for i in range(height):
            activate(a[p, i], z[p, i], inverse_deviation[p, i])
            for j in range(width):
                row, column = i * rows // height, j * columns // width
                share = np.float32(1) / size[row, column]
                for c in range(channels):
                    means[p, row, column, c] += share * z[p, i, j, c]


@entry
@compiled
def supply_blocks(blocks, memory, settings, means, labels, count, horizon, weights, xi, work):
    """The signals xi (N, d) to images of which a memory sees the means over blocks (N, d), one after the other.

    memory, settings: of ``kernels.memories``.  labels: (N,).  count: images before these.  horizon: of ``blocks``, in
    images.  weights: (1, M) as ``supply`` takes them.  Updates blocks and memory.
    """
    width = means.shape[1]
    for p in range(len(means)):
        rate, size = np.float32(1 / min(float(count + p + 1), horizon)), np.float32(0)
        for i in range(width):
            deviation = means[p, i] - blocks.mean[i]
            size += deviation * deviation
        blocks.scale[0] += rate * (size - blocks.scale[0])
        scale = np.float32(math.sqrt(np.float32(width) / max(blocks.scale[0], np.float32(width) * TINY)))
        for i in range(width):
            deviation = means[p, i] - blocks.mean[i]
            work.seen[i] = scale * deviation
            blocks.mean[i] += rate * deviation
        supply(memory, settings, work.seen, labels[p], count + p, weights[0], xi[p], work.scratch)


@entry
@compiled
def pull_back_images(a, z, inverse_deviation, xi, signal):
    """The signals of blocks, each that of all of its places, pulled back to a: the gradient of the mean over images.

    a, z, signal: (N, H, W, channels).  inverse_deviation: (N, H, W).  xi: (N, rows, columns, channels).
    """
    num, height, width, channels = a.shape
    rows, columns = xi.shape[1:3]
    share = np.float32(1 / num)
    for p in range(num):
        for i in range(height):
            for j in range(width):
                of_block = xi[p, i * rows // height, j * columns // width]
                for c in range(channels):
                    signal[p, i, j, c] = share * of_block[c]
            pull_back(signal[p, i], a[p, i], z[p, i], inverse_deviation[p, i])
