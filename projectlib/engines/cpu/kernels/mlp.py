"""The CPU engine's inner loops, compiled by numba: one member trained in place through a chunk of windows.

One kernel serves both models, for an MLP is the LIF network whose time step equals its time constant
(``u <- u + 1 (W h + b - u)`` forgets the old u), shown each window for a single time step.

Arrays of a window are feature-first, (features, N): the loops that LLVM vectorises run over the N places, which
pays where windows are long and layers small, and costs nothing where layers are large, since there the time goes
into matrix products (``products``) and the optimizer's pass over the weights. Everything is float32 but the
sums of metrics, and a step is the same arithmetic wherever a chunk begins, so results do not depend on how steps are
cut.

Threads are the caller's: kernels release the GIL and start none.
"""

import math
from typing import NamedTuple

import numpy as np

from projectlib.engines.cpu.kernels.compiler import compiled, entry, inlined
from projectlib.engines.cpu.kernels.hsic import (
    centered_pairs,
    hsic,
    label_kernel_value,
    modulate,
    num_pairs,
    num_places,
    window_kernel_matrices,
)
from projectlib.engines.cpu.kernels.products import (
    is_small,
    multiply,
    multiply_over_places,
    outer,
    send_back,
    transpose,
)
from projectlib.engines.cpu.kernels.similarity import (
    Comparison,
    Groups,
    comparison,
    cosine_target,
    descend_cosines,
    descend_hsic,
    hsic_target,
    plausible_target,
)
from projectlib.engines.cpu.kernels.vectors import exp

BIOHSIC, FROZEN, BACKPROP, DIRECT, CLASSIFIER, HSIC, SIMILARITY, PLAUSIBLE = range(8)
SGD, ADAM, ADAMW = range(3)
LAYER_NORM_EPS = np.float32(1e-6)
TINY = np.float32(1e-30)  # added to moments: silent neurons' do not become subnormal, which are a hundred times as slow
BLOCK = 16384  # weights whose gradient is held at a time: 64 KiB, small in a level-2 cache


class Layer(NamedTuple):
    """One layer of one model: float32, C-contiguous, updated in place.  A member is a tuple of them.

    weight (out, in) and bias (out,), each with the optimizer's first and second moments (SGD reads none: any arrays
    of the right rank will do).
    """

    weight: np.ndarray
    weight_mean: np.ndarray
    weight_square: np.ndarray
    bias: np.ndarray
    bias_mean: np.ndarray
    bias_square: np.ndarray


class FeedbackPath(NamedTuple):
    """How an error reaches a hidden layer of d neurons; fields that a rule does not use are any arrays of that rank.

    feedback (k, d): what it comes through, from the next layer's k neurons or from k classes.  weight (classes, d),
    bias (classes,): of the layer's own classifier, updated in place at ``Learning.classifier_rate``.
    """

    feedback: np.ndarray
    weight: np.ndarray
    bias: np.ndarray


class Optimizer(NamedTuple):
    """``torch.optim``'s SGD (without momentum), Adam and AdamW; decay also of biases, as there."""

    kind: int
    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


class Presentation(NamedTuple):
    """How windows are shown: N samples, ``stride`` further each step, for ``num_timesteps`` updates each.

    stride: 1 slides, N makes plain batches.  rate: dt / tau, 1 for an MLP.
    """

    window: int
    stride: int
    num_timesteps: int
    rate: float


class Learning(NamedTuple):
    """rule: one of those above.  form: of BIOHSIC's signal (``kernels.hsic``).  classifier_rate: of classifiers.
    log_hsic: whether HSIC is measured, with gamma, sigmas, which are also those of the rule HSIC.  label_weight,
    groups: of PLAUSIBLE.

    BACKPROP sends through whatever the feedback_paths have, be it the next layer's own weights or not.
    """

    rule: int
    form: int
    classifier_rate: float
    log_hsic: bool
    gamma: float
    sigma_y: float
    sigma_z: float
    label_weight: float = 0.0
    groups: Groups = Groups(0, 1.0, 1.0)


class Workspace(NamedTuple):
    """What a step writes on its way; layer l reads h[l], h[0] is the window of inputs, h[L] is u[L - 1].

    rows[l] is h[l] for the products of a layer that is not small; h[0] is only filled for one that is. signal[l] is
    first scratch of the forward pass.
    """

    h: tuple[np.ndarray, ...]  # (in, N), L + 1 of them
    rows: tuple[np.ndarray, ...]  # (N, in)
    u: tuple[np.ndarray, ...]  # (out, N)
    signal: tuple[np.ndarray, ...]  # (out, N) gradient with respect to h[l + 1], then to W h + b
    inverse_deviation: np.ndarray  # (L, N) of layer norm
    places: np.ndarray  # (3, N)
    classes: np.ndarray  # (2, classes, N) logits and error of a layer's classifier
    means: np.ndarray  # (N,) float64
    scratch: np.ndarray  # (BLOCK, or N times the largest number of features,)
    kx: np.ndarray  # (N, N)
    ky: np.ndarray  # (N, N)
    pairs: np.ndarray  # (3, num_pairs(N)) centred kx, centred ky, squared distances of z
    around: np.ndarray  # (largest out, num_places(N)) z of the window, and on round it
    comparison: Comparison


# Forward ---------------------------------------------------------------------------------------------------------


@compiled
def integrate(drive, bias, u, rate):
    """``u <- u + rate (drive + b - u)``.  drive, u: (out, N).

    At a rate of 1 the old u is not read: reassociated, even ``0 u`` would leave its rounding.
    """
    if rate == 1:
        for o in range(u.shape[0]):
            for p in range(u.shape[1]):
                u[o, p] = drive[o, p] + bias[o]
    else:
        for o in range(u.shape[0]):
            for p in range(u.shape[1]):
                u[o, p] += rate * (drive[o, p] + bias[o] - u[o, p])


@compiled
def activate(u, z, inverse_deviation, mean):
    """``z = LN(relu(u))`` over features, without scale and bias.  u, z: (out, N).  the others: (N,) scratch.

    relu is written so that NaN stays NaN.
    """
    features, num = u.shape
    share = np.float32(1 / features)
    mean[:] = 0
    inverse_deviation[:] = 0
    for o in range(features):
        for p in range(num):
            z[o, p] = np.float32(0) if u[o, p] < 0 else u[o, p]
            mean[p] += share * z[o, p]
    for o in range(features):
        for p in range(num):
            z[o, p] -= mean[p]
            inverse_deviation[p] += share * z[o, p] * z[o, p]
    for p in range(num):
        inverse_deviation[p] = np.float32(1) / math.sqrt(inverse_deviation[p] + LAYER_NORM_EPS)
    for o in range(features):
        for p in range(num):
            z[o, p] *= inverse_deviation[p]


@inlined
def forward(member, work, rate):
    """One pass of the window through all layers; leaves h, rows, u and the inverse deviations."""
    readout = len(member) - 1
    for layer in range(readout + 1):
        u, drive = work.u[layer], work.signal[layer]
        multiply(member[layer].weight, work.h[layer], work.rows[layer], drive)
        integrate(drive, member[layer].bias, u, rate)
        if layer < readout:
            z = work.h[layer + 1]
            activate(u, z, work.inverse_deviation[layer], work.places[0])
            if not is_small(member[layer + 1].weight):
                transpose(z, work.rows[layer + 1])


@compiled
def readout_signal(logits, labels, signal, rate, places):
    """Cross-entropy at the readout.  logits, signal: (classes, N).  labels: (N,).  places: (3, N) scratch.

    Leaves ``rate (softmax(logits) - one_hot(labels)) / N`` in signal, the gradient with respect to W h + b;
    returns (mean cross-entropy, accuracy).
    """
    classes, num = logits.shape
    share = rate / np.float32(num)
    peak, total, best = places[0], places[1], places[2]
    peak[:] = -np.inf
    best[:] = 0
    total[:] = 0
    for c in range(classes):
        for p in range(num):
            better = logits[c, p] > peak[p]
            best[p] = np.float32(c) if better else best[p]
            peak[p] = logits[c, p] if better else peak[p]
    for c in range(classes):
        for p in range(num):
            signal[c, p] = exp(logits[c, p] - peak[p])
            total[p] += signal[c, p]
    loss, correct = 0.0, 0
    for p in range(num):
        loss += math.log(total[p]) + peak[p] - logits[labels[p], p]
        correct += best[p] == labels[p]
        total[p] = share / total[p]
    for c in range(classes):
        for p in range(num):
            signal[c, p] *= total[p]
    for p in range(num):
        signal[labels[p], p] -= share
    return loss / num, correct / num


# Backward and update ---------------------------------------------------------------------------------------------


@compiled
def pull_back(signal, u, z, inverse_deviation, rate, first, places):
    """Gradient with respect to z turned, in place, into that with respect to W h + b: layer norm, relu, dt / tau.

    signal, u, z: (out, N), places ``first`` and later.  places: (2 or more, N) scratch.
    """
    features, num = u.shape
    share = np.float32(1 / features)
    mean, along = places[0], places[1]
    mean[:] = 0
    along[:] = 0
    for o in range(features):
        for p in range(first, num):
            mean[p] += share * signal[o, p]
            along[p] += share * signal[o, p] * z[o, p]
    for o in range(features):
        for p in range(first, num):
            slope = rate * inverse_deviation[p] * (signal[o, p] - mean[p] - z[o, p] * along[p])
            signal[o, p] = np.float32(0) if u[o, p] <= 0 else slope


@compiled
def step_sizes(optimizer, updates):
    """Float32 constants of update number ``updates`` (from 1): with Adam's corrections for the moments' start."""
    rate = optimizer.learning_rate
    decoupled = optimizer.weight_decay if optimizer.kind == ADAMW else 0.0
    step, spread = rate, 1.0
    if optimizer.kind != SGD:
        step = rate / (1 - optimizer.beta1**updates)
        spread = 1 / math.sqrt(1 - optimizer.beta2**updates)
    return np.float32(step), np.float32(spread), np.float32(1 - rate * decoupled)


@compiled
def descend(parameter, gradient, mean, square, optimizer, sizes):
    """One update of the optimizer, in one pass.  All arrays: (n,)."""
    step, spread, keep = sizes
    beta1, beta2 = np.float32(optimizer.beta1), np.float32(optimizer.beta2)
    rest1, rest2 = np.float32(1 - optimizer.beta1), np.float32(1 - optimizer.beta2)
    eps = np.float32(optimizer.eps)
    coupled = np.float32(0 if optimizer.kind == ADAMW else optimizer.weight_decay)
    if optimizer.kind == SGD:
        for i in range(len(parameter)):
            parameter[i] -= step * (gradient[i] + coupled * parameter[i])
    else:
        for i in range(len(parameter)):
            slope = gradient[i] + coupled * parameter[i]
            mean[i] = beta1 * mean[i] + (rest1 * slope + TINY)
            square[i] = beta2 * square[i] + (rest2 * slope * slope + TINY)
            parameter[i] = keep * parameter[i] - step * mean[i] / (math.sqrt(square[i]) * spread + eps)


@compiled
def update_layer(layer, h, rows, signal, first, scratch, optimizer, sizes):
    """``dW = signal h^T`` and ``db = sum signal`` over the places ``first`` and later, applied by the optimizer.

    h: (in, N).  rows: (N, in).  signal: (out, N).  The gradient is made and spent a few neurons at a time.
    """
    outputs, inputs = layer.weight.shape
    parameter = layer.weight.reshape(-1)
    mean, square = layer.weight_mean.reshape(-1), layer.weight_square.reshape(-1)
    together = max(1, BLOCK // inputs)
    for start in range(0, outputs, together):
        stop = min(start + together, outputs)
        gradient = scratch[: (stop - start) * inputs]
        block = gradient.reshape(stop - start, inputs)
        outer(layer.weight, signal[start:stop], h, rows, first, block)
        part = slice(start * inputs, stop * inputs)
        descend(parameter[part], gradient, mean[part], square[part], optimizer, sizes)
    gradient = scratch[:outputs]
    for o in range(outputs):
        entry = np.float32(0)
        for p in range(first, h.shape[1]):
            entry += signal[o, p]
        gradient[o] = entry
    descend(layer.bias, gradient, layer.bias_mean, layer.bias_square, optimizer, sizes)


# The loop --------------------------------------------------------------------------------------------------------


@compiled
def classify(path, z, labels, classes, places, rate, signal):
    """Leave in signal (d, N) what a layer's classifier sends back of its mean cross-entropy, and teach it.

    z: (d, N).  classes: (2, classes, N) and places: (3, N) scratch.
    """
    logits, error = classes[0], classes[1]
    width, num = z.shape
    share = np.float32(1 / math.sqrt(width))
    multiply_over_places(path.weight, z, logits)
    for c in range(len(logits)):
        for p in range(num):
            logits[c, p] = share * logits[c, p] + path.bias[c]
    readout_signal(logits, labels, error, np.float32(1), places)
    multiply_over_places(path.feedback.T, error, signal)
    for i in range(width):
        for p in range(num):
            signal[i, p] *= share
    step = np.float32(rate)
    for c in range(len(logits)):
        for i in range(width):
            entry = np.float32(0)
            for p in range(num):
                entry += error[c, p] * z[i, p]
            path.weight[c, i] -= step * share * entry
        entry = np.float32(0)
        for p in range(num):
            entry += error[c, p]
        path.bias[c] -= step * entry


@inlined
def learn(member, feedback_paths, work, labels, learning, modulation, rate, optimizers, updates):
    """Turn the readout's signal into every layer's update.  modulation: (N,) weights of the window's xi."""
    rule, readout = learning.rule, len(member) - 1
    newest = work.h[0].shape[1] - 1
    first = newest if rule in (BIOHSIC, FROZEN) else 0
    lowest = readout if rule == FROZEN else 0
    for layer in range(readout - 1, lowest - 1, -1):
        z, signal = work.h[layer + 1], work.signal[layer]
        if rule == BACKPROP:
            send_back(feedback_paths[layer].feedback, work.signal[layer + 1], work.scratch, signal)
        elif rule == DIRECT:
            send_back(feedback_paths[layer].feedback, work.signal[readout], work.scratch, signal)
            for o in range(signal.shape[0]):  # of the logits, and not of what drives them
                for p in range(signal.shape[1]):
                    signal[o, p] /= rate
        elif rule == CLASSIFIER:
            classify(feedback_paths[layer], z, labels, work.classes, work.places, learning.classifier_rate, signal)
        elif rule == HSIC:
            descend_hsic(z, learning.sigma_z, work.comparison, signal)
        elif rule in (SIMILARITY, PLAUSIBLE):
            descend_cosines(z, rule == PLAUSIBLE, learning.groups, work.comparison, signal)
        else:
            modulate(z, modulation, learning.form, learning.sigma_z, signal, work.places)
        pull_back(signal, work.u[layer], z, work.inverse_deviation[layer], rate, first, work.places)
    for layer in range(lowest, readout + 1):
        start = 0 if layer == readout else first
        optimizer = optimizers[1] if layer == readout else optimizers[0]
        h, rows, signal = work.h[layer], work.rows[layer], work.signal[layer]
        sizes = step_sizes(optimizer, updates)
        update_layer(member[layer], h, rows, signal, start, work.scratch, optimizer, sizes)


@entry
@compiled
def train_windows(
    member, feedback_paths, work, samples, labels, lags, modulation, presentation, learning, optimizers, updates, totals
):
    """Train a member through every window of the chunk, in order; returns the number of updates so far.

    feedback_paths: of each layer, the readout's are not read.  optimizers: of the hidden layers and of the readout.
    """
    window, stride, num_timesteps, dt_over_tau = presentation
    rule, log_hsic, gamma, sigma_z = learning.rule, learning.log_hsic, learning.gamma, learning.sigma_z
    rate = np.float32(dt_over_tau)
    readout = len(member) - 1
    sums = totals.copy()  # members' totals lie side by side: their threads would fight over lines of cache
    num_classes = len(member[readout].bias)
    other = label_kernel_value(learning.sigma_y, num_classes)
    for step in range((len(samples) - window) // stride + 1):
        first = step * stride
        for p in range(window):
            for i in range(samples.shape[1]):
                work.rows[0][p, i] = samples[first + p, i]
        if is_small(member[0].weight):
            transpose(work.rows[0], work.h[0])
        window_labels = labels[first : first + window]
        if log_hsic or rule == HSIC:
            window_kernel_matrices(lags, labels, first, other, work.kx, work.ky)
        if rule == HSIC:
            hsic_target(work.kx, work.ky, gamma, work.means, work.comparison.target)
        elif rule == SIMILARITY:
            cosine_target(window_labels, num_classes, work.comparison.target)
        elif rule == PLAUSIBLE:
            plausible_target(window_labels, num_classes, learning.label_weight, work.comparison.target)
        if log_hsic:
            centered_pairs(work.kx, work.means, work.pairs[0])
            centered_pairs(work.ky, work.means, work.pairs[1])
        for _ in range(num_timesteps):
            updates += 1
            forward(member, work, rate)
            loss, accuracy = readout_signal(work.u[readout], window_labels, work.signal[readout], rate, work.places)
            sums[0] += loss / num_timesteps
            sums[1] += accuracy / num_timesteps
            if log_hsic:
                for layer in range(readout + 1):
                    z, pairs = work.h[layer + 1], work.pairs
                    hsic_x, hsic_y = hsic(pairs[0], pairs[1], z, sigma_z, work.around, pairs[2])
                    sums[2 + 3 * layer] += (hsic_x - gamma * hsic_y) / num_timesteps
                    sums[3 + 3 * layer] += hsic_x / num_timesteps
                    sums[4 + 3 * layer] += hsic_y / num_timesteps
            weights = modulation[step] if rule == BIOHSIC else modulation[0]
            learn(member, feedback_paths, work, window_labels, learning, weights, rate, optimizers, updates)
    for i in range(len(totals)):
        totals[i] = sums[i]
    return updates


def workspace(member, window, membranes=None, compares=False):
    """The scratch memory of a member at windows of N; membranes, (N, out) a layer, are copied into u.

    compares: whether the rule is one of HSIC, SIMILARITY and PLAUSIBLE.
    """
    shapes = [layer.weight.shape for layer in member]
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    if membranes is None:
        u = tuple(zeros(out, window) for out, _ in shapes)
    else:
        u = tuple(np.array(m.T, np.float32, order="C") for m in membranes)
    inner = [zeros(inputs, window) for _, inputs in shapes]
    return Workspace(
        h=(*inner, u[-1]),
        rows=tuple(zeros(window, inputs) for _, inputs in shapes),
        u=u,
        signal=tuple(zeros(out, window) for out, _ in shapes),
        inverse_deviation=zeros(len(shapes), window),
        places=zeros(3, window),
        classes=zeros(2, shapes[-1][0], window),
        means=np.zeros(window),
        scratch=zeros(max(BLOCK, *(window * max(shape) for shape in shapes))),
        kx=zeros(window, window),
        ky=zeros(window, window),
        pairs=zeros(3, num_pairs(window)),
        around=zeros(max(outputs for outputs, _ in shapes), num_places(window)),
        comparison=comparison(window, max(outputs for outputs, _ in shapes)) if compares else comparison(0, 0),
    )
