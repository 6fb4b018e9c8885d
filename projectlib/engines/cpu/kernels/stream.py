"""Learning from a stream of single samples, a memory beside every hidden layer: one member trained in place.

A sample is run forward once, with the weights of the moment. Each hidden layer's memory is read, which gives the signal
xi, and written; xi is pulled back through that layer alone. The samples of a *block* share their weights and make one
update of their mean gradient, so that matrix products are of several samples; a block of one is a matrix-vector product
and an outer product that is made and spent at once.

As in ``mlp`` an MLP is the LIF network whose time step equals its time constant, everything is float32 but the sums of
metrics, and a step is the same arithmetic wherever a chunk begins; but arrays are sample-first, (samples, features).
Loops that sum store nothing besides, as in ``memories``.
"""

import math
from typing import NamedTuple

import numpy as np

from projectlib.engines.cpu.kernels.cells import integrate, integrate_row, integrate_rows, pull_back
from projectlib.engines.cpu.kernels.compiler import compiled, entry, inlined
from projectlib.engines.cpu.kernels.memories import scratch_for, supply
from projectlib.engines.cpu.kernels.mlp import ADAMW, BLOCK, LAYER_NORM_EPS, SGD, TINY, descend, step_sizes
from projectlib.engines.cpu.kernels.products import ROWS, multiply_over_features, outer_over_features, transpose
from projectlib.engines.cpu.kernels.vectors import LANES, exp, load, spread, total


class Replay(NamedTuple):
    """The P samples before the newest that the readout learns from as well, oldest first.

    h (P, d) of the last hidden layer as it was then, u (P, classes) of the readout before it, labels (P,) int64.
    """

    h: np.ndarray
    u: np.ndarray
    labels: np.ndarray


class Stream(NamedTuple):
    """How samples are shown: ``time_steps`` each, ``accumulate`` of them per update."""

    time_steps: int
    accumulate: int


class Workspace(NamedTuple):
    """Scratch memory of blocks of up to A samples; layer l reads rows[l], which the readout's P replayed begin."""

    rows: tuple[np.ndarray, ...]  # (A, in); (P + A, in) of the readout
    u: tuple[np.ndarray, ...]  # (A, out); (P + A, out)
    signal: tuple[np.ndarray, ...]  # as u: gradient with respect to z, then to W h + b; first scratch of the products
    before: np.ndarray  # (A, classes) the readout's membranes before each sample
    labels: np.ndarray  # (P + A,)
    shares: np.ndarray  # (P + A,) weights of samples in the readout's gradient
    scratch: np.ndarray  # of the memory's own, by scratch_for
    products: np.ndarray  # (P + A) times the widest layer
    gradient: np.ndarray  # (BLOCK, or more where a layer has more inputs,)


# Layers, sample by sample -----------------------------------------------------------------------------------------


@compiled
def multiply_rows(weight, rows, scratch, product):
    """``product = rows W^T``.  weight: (out, in).  rows: (N, in).  product: (N, out).  scratch: (N out or more,)."""
    outputs, inputs = weight.shape
    num = len(rows)
    if num == 1 or inputs < LANES:
        for p in range(num):
            multiply_row(weight, rows[p], product[p])
    else:
        feature_first = scratch[: outputs * num].reshape(outputs, num)
        multiply_over_features(weight, rows, feature_first)
        transpose(feature_first, product)


@compiled
def multiply_row(weight, h, product):
    """``product = W h``.  h: (in,).  product: (out,)."""
    outputs, inputs = weight.shape
    whole = inputs // (2 * LANES) * (2 * LANES)
    zero = spread(np.float32(0))
    for o in range(0, outputs, ROWS):  # the last four may overlap: the last neuron is summed again
        o1, o2, o3 = min(o + 1, outputs - 1), min(o + 2, outputs - 1), min(o + 3, outputs - 1)
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zero
        for i in range(0, whole, 2 * LANES):
            at_a, at_b = load(h, (i,)), load(h, (i + LANES,))
            a0 += load(weight, (o, i)) * at_a
            b0 += load(weight, (o, i + LANES)) * at_b
            a1 += load(weight, (o1, i)) * at_a
            b1 += load(weight, (o1, i + LANES)) * at_b
            a2 += load(weight, (o2, i)) * at_a
            b2 += load(weight, (o2, i + LANES)) * at_b
            a3 += load(weight, (o3, i)) * at_a
            b3 += load(weight, (o3, i + LANES)) * at_b
        product[o], product[o1] = total(a0 + b0), total(a1 + b1)
        product[o2], product[o3] = total(a2 + b2), total(a3 + b3)
    if whole < inputs:
        for o in range(outputs):
            entry = np.float32(0)
            for i in range(whole, inputs):
                entry += weight[o, i] * h[i]
            product[o] += entry


@compiled
def activate_row(u, z):
    """``z = LN(relu(u))``, both (d,), without scale and bias; returns the inverse deviation.  NaN stays NaN."""
    width = len(u)
    share, mean, variance = np.float32(1 / width), np.float32(0), np.float32(0)
    for o in range(width):
        mean += np.float32(0) if u[o] < 0 else u[o]
    mean *= share
    for o in range(width):
        difference = (np.float32(0) if u[o] < 0 else u[o]) - mean
        variance += difference * difference
    inverse_deviation = np.float32(1) / math.sqrt(share * variance + LAYER_NORM_EPS)
    for o in range(width):
        z[o] = ((np.float32(0) if u[o] < 0 else u[o]) - mean) * inverse_deviation
    return inverse_deviation


@compiled
def cross_entropy_row(logits, label, share, signal):
    """Leave ``share (softmax(logits) - one_hot(label))`` in signal; returns (cross-entropy, whether it is right)."""
    best, whole = 0, np.float32(0)
    for c in range(len(logits)):
        best = c if logits[c] > logits[best] else best
    peak = logits[best]
    for c in range(len(logits)):
        signal[c] = exp(logits[c] - peak)
    for c in range(len(logits)):
        whole += signal[c]
    for c in range(len(logits)):
        signal[c] *= share / whole
    signal[label] -= share
    return math.log(whole) + peak - logits[label], best == label


@compiled
def update_rows(layer, rows, signal, scratch, gradient, optimizer, sizes):
    """``dW = signal^T rows`` and ``db = sum signal``, applied by the optimizer.  rows: (N, in).  signal: (N, out)."""
    if len(rows) == 1:
        descend_outer(layer.weight, signal[0], rows[0], layer.weight_mean, layer.weight_square, optimizer, sizes)
        descend(layer.bias, signal[0], layer.bias_mean, layer.bias_square, optimizer, sizes)
        return
    outputs, inputs = layer.weight.shape
    num = len(rows)
    parameter = layer.weight.reshape(-1)
    mean, square = layer.weight_mean.reshape(-1), layer.weight_square.reshape(-1)
    feature_first = scratch[: outputs * num].reshape(outputs, num)
    transpose(signal, feature_first)
    together = max(1, BLOCK // inputs)
    for start in range(0, outputs, together):
        stop = min(start + together, outputs)
        part = slice(start * inputs, stop * inputs)
        some = gradient[: (stop - start) * inputs]
        outer_over_features(feature_first[start:stop], rows, 0, some.reshape(stop - start, inputs))
        descend(parameter[part], some, mean[part], square[part], optimizer, sizes)
    some = gradient[:outputs]
    some[:] = 0
    for p in range(num):
        for o in range(outputs):
            some[o] += signal[p, o]
    descend(layer.bias, some, layer.bias_mean, layer.bias_square, optimizer, sizes)


@compiled
def descend_outer(weight, signal, h, mean, square, optimizer, sizes):
    """``descend`` along the outer product of signal (out,) and h (in,), which is never written down."""
    step, spread, keep = sizes
    beta1, beta2 = np.float32(optimizer.beta1), np.float32(optimizer.beta2)
    rest1, rest2 = np.float32(1 - optimizer.beta1), np.float32(1 - optimizer.beta2)
    eps = np.float32(optimizer.eps)
    coupled = np.float32(0 if optimizer.kind == ADAMW else optimizer.weight_decay)
    outputs, inputs = weight.shape
    for o in range(outputs):
        of_neuron = signal[o]
        if optimizer.kind == SGD:
            for i in range(inputs):
                weight[o, i] -= step * (of_neuron * h[i] + coupled * weight[o, i])
        else:
            for i in range(inputs):
                slope = of_neuron * h[i] + coupled * weight[o, i]
                mean[o, i] = beta1 * mean[o, i] + (rest1 * slope + TINY)
                square[o, i] = beta2 * square[o, i] + (rest2 * slope * slope + TINY)
                weight[o, i] = keep * weight[o, i] - step * mean[o, i] / (math.sqrt(square[o, i]) * spread + eps)


# The loop ---------------------------------------------------------------------------------------------------------


@compiled
def replay_shares(shares, replayed, num, count):
    """Weights, with a sum of 1, of P replayed samples and a block's num in the readout's gradient.

    Each of the block learns from itself and the P before it, as far as there were any: count before the block.
    """
    shares[:] = 0
    for p in range(num):
        first = max(p, replayed - count)
        last = replayed + p
        for place in range(first, last + 1):
            shares[place] += np.float32(1 / (num * (last + 1 - first)))


@compiled
def shift_in(remembered, newest):
    """Drop as many of the oldest rows as there are newest ones, and end with those."""
    size, num = len(remembered), len(newest)
    for p in range(size):
        remembered[p] = remembered[p + num] if p + num < size else newest[p + num - size]


@inlined
def learn_readout(layer, replay, membrane, neuron, work, num, count, optimizer, sizes, sums, share):
    """The readout's update from a block's z of the last hidden layer, which lie in place, and from those replayed.

    sums: loss and accuracy of each of the block's samples are added, times share.
    """
    replayed, rate = len(replay.labels), np.float32(neuron.rate)
    whole = replayed + num
    rows, labels, shares = work.rows[-1][:whole], work.labels[:whole], work.shares[:whole]
    u, signal, before = work.u[-1][:whole], work.signal[-1][:whole], work.before[:num]
    rows[:replayed] = replay.h
    labels[:replayed] = replay.labels
    multiply_rows(layer.weight, rows, work.products, signal)
    for p in range(replayed):
        integrate_row(signal[p], layer.bias, replay.u[p], rate, u[p])
    before[0] = membrane
    integrate_rows(membrane, neuron, signal[replayed:], layer.bias, u[replayed:])
    before[1:] = u[replayed : whole - 1]
    replay_shares(shares, replayed, num, count)
    for p in range(whole):
        loss, is_right = cross_entropy_row(u[p], labels[p], rate * shares[p], signal[p])
        if p >= replayed:
            sums[0] += share * loss
            sums[1] += share * is_right
    update_rows(layer, rows, signal, work.products, work.gradient, optimizer, sizes)
    shift_in(replay.h, rows[replayed:])
    shift_in(replay.labels, labels[replayed:])
    if rate != 1:
        shift_in(replay.u, before)


@entry
@compiled
def train_stream(
    member,
    memories,
    settings,
    replay,
    cells,
    membrane,
    neuron,
    work,
    samples,
    labels,
    weights,
    stream,
    optimizers,
    count,
    updates,
    totals,
):
    """Train a member through a stream of samples, in order; returns (time steps, updates) so far.

    memories: what each hidden layer remembers.  cells: of each hidden layer, as ``integrate``
    has them.  membrane: (out,) of the readout.  samples: (n, inputs).  weights: of
    each time step, (n time steps, M), where ``supply`` asks for them; else one row.  optimizers: of the hidden layers
    and of the readout.  count, updates: time steps and updates before.  totals: loss and accuracy, means over a block
    and over time steps, are added.
    """
    readout, replayed = len(member) - 1, len(replay.labels)
    sums = totals.copy()  # members' totals lie side by side: their threads would fight over lines of cache
    num_steps = len(samples) * stream.time_steps
    for start in range(0, num_steps, stream.accumulate):
        num = min(stream.accumulate, num_steps - start)
        for p in range(num):
            sample = (start + p) // stream.time_steps
            work.rows[0][p] = samples[sample]
            work.labels[replayed + p] = labels[sample]
        updates += 1
        sizes = step_sizes(optimizers[0], updates)
        for layer in range(readout):
            rows, u, signal = work.rows[layer][:num], work.u[layer][:num], work.signal[layer][:num]
            first = replayed if layer == readout - 1 else 0
            z = work.rows[layer + 1][first : first + num]
            multiply_rows(member[layer].weight, rows, work.products, signal)
            integrate(cells[layer], neuron, signal, member[layer].bias, u)
            for p in range(num):
                scale = activate_row(u[p], z[p]) / np.float32(num)
                of_step = weights[min(start + p, len(weights) - 1)]
                label = work.labels[replayed + p]
                supply(memories[layer], settings, z[p], label, count + p, of_step, signal[p], work.scratch)
                pull_back(cells[layer], neuron, signal[p], u[p], z[p], scale)
            update_rows(member[layer], rows, signal, work.products, work.gradient, optimizers[0], sizes)
        sizes = step_sizes(optimizers[1], updates)
        last, share = member[readout], 1 / (num * stream.time_steps)
        learn_readout(last, replay, membrane, neuron, work, num, count, optimizers[1], sizes, sums, share)
        count += num
    for i in range(2):
        totals[i] = sums[i]
    return count, updates


def workspace(member, num_remembered, num_replayed, num_block):
    """The scratch memory of a member for blocks of up to num_block samples."""
    shapes = [layer.weight.shape for layer in member]
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    places = [num_block] * (len(shapes) - 1) + [num_replayed + num_block]
    widest = max(outputs for outputs, _ in shapes)
    return Workspace(
        rows=tuple(zeros(num, inputs) for num, (_, inputs) in zip(places, shapes, strict=True)),
        u=tuple(zeros(num, outputs) for num, (outputs, _) in zip(places, shapes, strict=True)),
        signal=tuple(zeros(num, outputs) for num, (outputs, _) in zip(places, shapes, strict=True)),
        before=zeros(num_block, shapes[-1][0]),
        labels=np.zeros(places[-1], np.int64),
        shares=zeros(places[-1]),
        scratch=scratch_for(num_remembered, widest, shapes[-1][0]),
        products=zeros(places[-1] * widest),
        gradient=zeros(max(BLOCK, *(max(shape) for shape in shapes))),
    )
