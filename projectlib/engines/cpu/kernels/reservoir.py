"""The reservoir's time steps, compiled by numba: one state at a time, over the non-zeros of W_r."""

from typing import NamedTuple

import numpy as np

from projectlib.engines.cpu.kernels.compiler import compiled, entry, inlined
from projectlib.engines.cpu.kernels.mlp import descend, step_sizes
from projectlib.engines.cpu.kernels.vectors import LANES, exp


class SparseRows(NamedTuple):
    """A matrix without its zeros, in slices of ``LANES`` rows (the format "sliced ELLPACK").

    values, columns: (slots, LANES).  Row ``LANES s + k`` is lane k of the slots from ``starts[s]`` on, filled up with
    zeros to the longest row of its slice.  columns: unsigned, 16 bits where that is enough.
    """

    values: np.ndarray
    columns: np.ndarray
    starts: np.ndarray


class Weights(NamedTuple):
    """A reservoir's constants: W_r, W_f (n, zdim), lambda and dt / tau."""

    recurrent: SparseRows
    feedback: np.ndarray
    strength: np.float32
    rate: np.float32


class Readout(NamedTuple):
    """W_o (zdim, n) and the optimizer's moments of the same shape, updated in place."""

    weight: np.ndarray
    mean: np.ndarray
    square: np.ndarray


def pack(matrix: np.ndarray) -> SparseRows:
    """The non-zeros of a square float32 matrix."""
    values, columns, starts = [], [], [0]
    for first in range(0, len(matrix), LANES):
        rows = matrix[first : first + LANES]
        found = [row.nonzero()[0] for row in rows]
        length = max(map(len, found))
        slice_values, slice_columns = np.zeros((length, LANES), np.float32), np.zeros((length, LANES), np.int64)
        for lane, (row, at) in enumerate(zip(rows, found, strict=True)):
            slice_values[: len(at), lane], slice_columns[: len(at), lane] = row[at], at
        values.append(slice_values)
        columns.append(slice_columns)
        starts.append(starts[-1] + length)
    smallest = np.uint16 if len(matrix) <= 1 << 16 else np.uint32
    return SparseRows(np.concatenate(values), np.concatenate(columns).astype(smallest), np.array(starts))


@compiled
def multiply(matrix, r, product):
    """``product = matrix r``.  r: (n,).  product: (n rounded up to whole slices,)."""
    total = np.zeros(LANES, np.float32)
    for part in range(len(matrix.starts) - 1):
        total[:] = 0
        for slot in range(matrix.starts[part], matrix.starts[part + 1]):
            for lane in range(LANES):
                total[lane] += matrix.values[slot, lane] * r[matrix.columns[slot, lane]]
        product[LANES * part : LANES * (part + 1)] = total


@inlined
def tanh(x):
    """Of a float32, to 1e-7; NaN stays NaN."""
    bounded = np.float32(20) if x > 20 else np.float32(-20) if x < -20 else x  # where it is 1 to the last bit
    return np.float32(1) - np.float32(2) / (exp(np.float32(2) * bounded) + np.float32(1))


@entry
@compiled
def run(weights, readout, u, current, target, noise, learns, optimizer, updates, outputs):
    """Time steps of one reservoir while one window is presented; see ``models.Reservoir``.

    u: (n,) state, changed in place.  current: (n,) W_i input.  target: (zdim,) xi, which the readout descends to at
    each step if it ``learns``.  noise: (time steps, n + zdim) on r and o, or (time steps, 0).  updates: made before.
    outputs: (time steps, zdim), written.
    """
    strength, rate = weights.strength, weights.rate
    zdim, n = readout.weight.shape
    r, gradient = np.empty(n, np.float32), np.empty((zdim, n), np.float32)
    is_noisy = noise.shape[1] > 0
    drive = np.empty(LANES * (len(weights.recurrent.starts) - 1), np.float32)
    for step in range(len(outputs)):
        o = outputs[step]
        for i in range(n):
            r[i] = tanh(u[i])
        if is_noisy:
            for i in range(n):
                r[i] += noise[step, i]
        for k in range(zdim):
            total = np.float32(0)
            for i in range(n):
                total += readout.weight[k, i] * r[i]
            o[k] = total + noise[step, n + k] if is_noisy else total
        multiply(weights.recurrent, r, drive)
        for i in range(n):
            drive[i] = strength * drive[i] + current[i]
            for k in range(zdim):
                drive[i] += weights.feedback[i, k] * o[k]
            u[i] += rate * (drive[i] - u[i])
        if learns:
            updates += 1
            for k in range(zdim):
                error = o[k] - target[k]
                for i in range(n):
                    gradient[k, i] = error * r[i]
            sizes = step_sizes(optimizer, updates)
            flat = (
                readout.weight.reshape(-1),
                gradient.reshape(-1),
                readout.mean.reshape(-1),
                readout.square.reshape(-1),
            )
            descend(*flat, optimizer, sizes)
