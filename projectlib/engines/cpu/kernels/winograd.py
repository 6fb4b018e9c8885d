"""The transforms of Winograd's 3 x 3 convolution in tiles of 2 x 2 places, F(2 x 2, 3 x 3) of Lavin and Gray (2016).

A tile's output is ``A' [(G g G') * (B' d B)] A`` of the weight g and the 4 x 4 places d that it reads, ``*`` element by
element, and the gradient of the weight is the sum over tiles of ``G' [(A e A') * (B' d B)] G``, e that of the output.
Over channels these are 16 products of matrices: 16 multiplications for the four places of a tile, where there were 36.

    B' = 1  0 -1  0    G = 1    0    0     A' = 1  1  1  0
         0  1  1  0        1/2  1/2  1/2        0  1 -1 -1
         0 -1  1  0        1/2 -1/2  1/2
         0  1  0 -1        0    0    1

Images are channels last, (N, H, W, channels), and padded by a place of zeros; tiles are numbered as they are read.
"""

import numpy as np

from projectlib.engines.cpu.kernels.compiler import compiled, entry

HALF = np.float32(0.5)


@entry
@compiled
def transform_inputs(h, tiles):
    """``B' d B`` of each tile.  h: (N, H, W, channels).  tiles: (16, N ceil(H/2) ceil(W/2), channels)."""
    num, height, width, channels = h.shape
    padding, columns = np.zeros(channels, np.float32), np.empty((4, 4, channels), np.float32)
    tile = 0
    for p in range(num):
        for top in range(-1, height - 1, 2):
            for left in range(-1, width - 1, 2):
                for j in range(4):
                    x = left + j
                    is_inside = 0 <= x < width
                    d0 = h[p, top, x] if is_inside and top >= 0 else padding
                    d1 = h[p, top + 1, x] if is_inside else padding
                    d2 = h[p, top + 2, x] if is_inside and top + 2 < height else padding
                    d3 = h[p, top + 3, x] if is_inside and top + 3 < height else padding
                    for c in range(channels):
                        columns[0, j, c] = d0[c] - d2[c]
                        columns[1, j, c] = d1[c] + d2[c]
                        columns[2, j, c] = d2[c] - d1[c]
                        columns[3, j, c] = d1[c] - d3[c]
                for i in range(4):
                    d0, d1, d2, d3 = columns[i]
                    for c in range(channels):
                        tiles[4 * i, tile, c] = d0[c] - d2[c]
                        tiles[4 * i + 1, tile, c] = d1[c] + d2[c]
                        tiles[4 * i + 2, tile, c] = d2[c] - d1[c]
                        tiles[4 * i + 3, tile, c] = d1[c] - d3[c]
                tile += 1


@entry
@compiled
def transform_weight(weight, transformed):
    """``G g G'``.  weight: (out, in, 9).  transformed: (16, out, in)."""
    channels = weight.shape[1]
    rows = np.empty((4, 3, channels), np.float32)
    for o in range(weight.shape[0]):
        for j in range(3):
            for c in range(channels):
                top, middle, bottom = weight[o, c, j], HALF * weight[o, c, 3 + j], weight[o, c, 6 + j]
                rows[0, j, c] = top
                rows[1, j, c] = HALF * (top + bottom) + middle
                rows[2, j, c] = HALF * (top + bottom) - middle
                rows[3, j, c] = bottom
        for i in range(4):
            for c in range(channels):
                left, middle, right = rows[i, 0, c], HALF * rows[i, 1, c], rows[i, 2, c]
                transformed[4 * i, o, c] = left
                transformed[4 * i + 1, o, c] = HALF * (left + right) + middle
                transformed[4 * i + 2, o, c] = HALF * (left + right) - middle
                transformed[4 * i + 3, o, c] = right


@entry
@compiled
def outputs_of(products, bias, a):
    """``A' m A + bias``.  products: (16, tiles, channels).  a: (N, H, W, channels)."""
    num, height, width, channels = a.shape
    rows = np.empty((2, 4, channels), np.float32)
    tile = 0
    for p in range(num):
        for top in range(0, height, 2):
            for left in range(0, width, 2):
                for j in range(4):
                    for c in range(channels):
                        m1, m2 = products[4 + j, tile, c], products[8 + j, tile, c]
                        rows[0, j, c] = bias[c] * (j == 1) + products[j, tile, c] + m1 + m2
                        rows[1, j, c] = bias[c] * (j == 1) + m1 - m2 - products[12 + j, tile, c]
                for i in range(min(2, height - top)):
                    m0, m1, m2, m3 = rows[i]
                    for c in range(channels):
                        a[p, top + i, left, c] = m0[c] + m1[c] + m2[c]
                    if left + 1 < width:
                        for c in range(channels):
                            a[p, top + i, left + 1, c] = m1[c] - m2[c] - m3[c]
                tile += 1


@entry
@compiled
def transform_signals(signal, tiles):
    """``A e A'`` of each tile.  signal: (N, H, W, channels).  tiles: (16, N ceil(H/2) ceil(W/2), channels)."""
    num, height, width, channels = signal.shape
    padding, columns = np.zeros(channels, np.float32), np.empty((4, 2, channels), np.float32)
    tile = 0
    for p in range(num):
        for top in range(0, height, 2):
            for left in range(0, width, 2):
                for j in range(2):
                    x = left + j
                    e0 = signal[p, top, x] if x < width else padding
                    e1 = signal[p, top + 1, x] if x < width and top + 1 < height else padding
                    for c in range(channels):
                        columns[0, j, c] = e0[c]
                        columns[1, j, c] = e0[c] + e1[c]
                        columns[2, j, c] = e0[c] - e1[c]
                        columns[3, j, c] = -e1[c]
                for i in range(4):
                    e0, e1 = columns[i]
                    for c in range(channels):
                        tiles[4 * i, tile, c] = e0[c]
                        tiles[4 * i + 1, tile, c] = e0[c] + e1[c]
                        tiles[4 * i + 2, tile, c] = e0[c] - e1[c]
                        tiles[4 * i + 3, tile, c] = -e1[c]
                tile += 1


@entry
@compiled
def weight_gradient_of(products, gradient):
    """``G' m G``.  products: (16, out, in).  gradient: (out, in, 9)."""
    channels = gradient.shape[1]
    rows = np.empty((3, 4, channels), np.float32)
    for o in range(gradient.shape[0]):
        for j in range(4):
            for c in range(channels):
                m1, m2 = HALF * products[4 + j, o, c], HALF * products[8 + j, o, c]
                rows[0, j, c] = products[j, o, c] + m1 + m2
                rows[1, j, c] = m1 - m2
                rows[2, j, c] = m1 + m2 + products[12 + j, o, c]
        for i in range(3):
            for c in range(channels):
                m1, m2 = HALF * rows[i, 1, c], HALF * rows[i, 2, c]
                gradient[o, c, 3 * i] = rows[i, 0, c] + m1 + m2
                gradient[o, c, 3 * i + 1] = m1 - m2
                gradient[o, c, 3 * i + 2] = m1 + m2 + rows[i, 3, c]
