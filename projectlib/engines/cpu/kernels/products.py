"""Matrix products of a layer with a window of N samples, compiled by numba.

BLAS is made for large matrices: with the six samples of a window its products took two to three times as long, and with
the smallest layers a call alone costs more than the arithmetic. A *small* layer's products run over the places of the
feature-first h, (in, N); the others' over the features of ``rows``, the same numbers sample-first, (N, in).
"""

import numpy as np

from projectlib.engines.cpu.kernels.compiler import compiled, inlined
from projectlib.engines.cpu.kernels.vectors import LANES, load, spread, store, total

SMALL = 64  # weights of a small layer
ROWS = 4  # neurons that are summed side by side
CHUNK = 4 * LANES  # weights of a gradient's row that are summed side by side
PLACES = 32  # samples that are multiplied with all weights before the next ones: few enough for a level-2 cache


@compiled
def is_small(weight):
    """Whether a layer's products run over places."""
    return weight.size <= SMALL


@compiled
def transpose(matrix, result):
    """``result = matrix^T``."""
    for i in range(matrix.shape[0]):
        for j in range(matrix.shape[1]):
            result[j, i] = matrix[i, j]


@inlined
def multiply(weight, h, rows, product):
    """``product = W h``.  weight: (out, in).  product: (out, N)."""
    if is_small(weight):
        multiply_over_places(weight, h, product)
    else:
        multiply_over_features(weight, rows, product)


@compiled
def multiply_over_places(weight, h, product):
    for o in range(weight.shape[0]):
        for p in range(h.shape[1]):
            product[o, p] = 0
        for i in range(weight.shape[1]):
            for p in range(h.shape[1]):
                product[o, p] += weight[o, i] * h[i, p]


@compiled
def multiply_over_features(weight, rows, product):
    outputs, inputs = weight.shape
    num = rows.shape[0]
    whole = inputs // LANES * LANES
    zero = spread(np.float32(0))
    for begin in range(0, num, PLACES):
        end = min(begin + PLACES, num)
        for o in range(0, outputs, ROWS):  # the last four may overlap: the last neuron is summed again
            o1, o2, o3 = min(o + 1, outputs - 1), min(o + 2, outputs - 1), min(o + 3, outputs - 1)
            for p in range(begin, end, 2):
                q = min(p + 1, end - 1)
                p0 = p1 = p2 = p3 = q0 = q1 = q2 = q3 = zero
                for i in range(0, whole, LANES):
                    at_p, at_q = load(rows, (p, i)), load(rows, (q, i))
                    weights = load(weight, (o, i))
                    p0 += weights * at_p
                    q0 += weights * at_q
                    weights = load(weight, (o1, i))
                    p1 += weights * at_p
                    q1 += weights * at_q
                    weights = load(weight, (o2, i))
                    p2 += weights * at_p
                    q2 += weights * at_q
                    weights = load(weight, (o3, i))
                    p3 += weights * at_p
                    q3 += weights * at_q
                product[o, p], product[o, q] = total(p0), total(q0)
                product[o1, p], product[o1, q] = total(p1), total(q1)
                product[o2, p], product[o2, q] = total(p2), total(q2)
                product[o3, p], product[o3, q] = total(p3), total(q3)
    if whole < inputs:
        for o in range(outputs):
            for p in range(num):
                for i in range(whole, inputs):
                    product[o, p] += weight[o, i] * rows[p, i]


@inlined
def outer(weight, signal, h, rows, first, gradient):
    """``gradient = signal h^T`` over the places ``first`` and later, of some neurons of a layer.

    weight: the layer's.  signal: (out, N).  gradient: (out, in).
    """
    if is_small(weight):
        outer_over_places(signal, h, first, gradient)
    else:
        outer_over_features(signal, rows, first, gradient)


@compiled
def outer_over_places(signal, h, first, gradient):
    newest = h.shape[1] - 1
    for o in range(gradient.shape[0]):
        for i in range(gradient.shape[1]):
            entry = signal[o, newest] * h[i, newest]
            for p in range(first, newest):
                entry += signal[o, p] * h[i, p]
            gradient[o, i] = entry


@compiled
def outer_over_features(signal, rows, first, gradient):
    outputs, inputs = gradient.shape
    num = rows.shape[0]
    if inputs < CHUNK:
        for o in range(outputs):
            for i in range(inputs):
                gradient[o, i] = 0
            for p in range(first, num):
                for i in range(inputs):
                    gradient[o, i] += signal[o, p] * rows[p, i]
        return
    zero = spread(np.float32(0))
    for o in range(0, outputs, 2):  # the last neuron and the last weights may be summed twice
        q = min(o + 1, outputs - 1)
        for start in range(0, inputs, CHUNK):
            i = min(start, inputs - CHUNK)
            o0 = o1 = o2 = o3 = q0 = q1 = q2 = q3 = zero
            for p in range(first, num):
                at_o, at_q = spread(signal[o, p]), spread(signal[q, p])
                row = load(rows, (p, i))
                o0 += at_o * row
                q0 += at_q * row
                row = load(rows, (p, i + LANES))
                o1 += at_o * row
                q1 += at_q * row
                row = load(rows, (p, i + 2 * LANES))
                o2 += at_o * row
                q2 += at_q * row
                row = load(rows, (p, i + 3 * LANES))
                o3 += at_o * row
                q3 += at_q * row
            store(gradient, (o, i), o0)
            store(gradient, (o, i + LANES), o1)
            store(gradient, (o, i + 2 * LANES), o2)
            store(gradient, (o, i + 3 * LANES), o3)
            store(gradient, (q, i), q0)
            store(gradient, (q, i + LANES), q1)
            store(gradient, (q, i + 2 * LANES), q2)
            store(gradient, (q, i + 3 * LANES), q3)


@inlined
def send_back(weight, signal, scratch, below):
    """``below = W^T signal``.  weight: (out, in).  signal: (out, N).  below: (in, N).  scratch: (N in or more,)."""
    if is_small(weight):
        multiply_over_places(weight.T, signal, below)
    else:
        send_back_over_features(weight, signal, scratch, below)


@compiled
def send_back_over_features(weight, signal, scratch, below):
    inputs, num = below.shape
    rows = scratch[: num * inputs].reshape(num, inputs)
    for p in range(num):
        for i in range(inputs):
            rows[p, i] = 0
    for o in range(weight.shape[0]):
        for p in range(num):
            for i in range(inputs):
                rows[p, i] += weight[o, i] * signal[o, p]
    transpose(rows, below)
