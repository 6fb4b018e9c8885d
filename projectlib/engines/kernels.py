"""The CPU engine's inner loops, compiled by numba: one member trained in place through a chunk of windows.

One kernel serves both models, for an MLP is the LIF network whose time step equals its time constant
(``u <- u + 1 (W h + b - u)`` forgets the old u), shown each window for a single time step.

Arrays of a window are feature-first, (features, N): the loops that LLVM vectorises run over the N places, which
pays where windows are long and layers small, and costs nothing where layers are large, since there the time goes
into matrix products (BLAS) and the optimizer's pass over the weights. Everything is float32 but the sums of
metrics, and a step is the same arithmetic wherever a chunk begins, so results do not depend on how steps are cut.

Threads are the caller's: kernels release the GIL, and BLAS must be held to one thread by
``threadpoolctl.threadpool_limits(1, user_api="blas")`` around the calls.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

BIOHSIC, FROZEN, BACKPROP = range(3)
SGD, ADAM, ADAMW = range(3)
LAYER_NORM_EPS = np.float32(1e-6)
TINY = np.float32(1e-30)  # moments below are set to zero: subnormal numbers take a hundred times as long
VECTOR = 32  # float32 that LLVM takes at a time: four registers of eight
BLOCK = 16384  # weights whose gradient is held at a time: 64 KiB, small in a level-2 cache, large enough for BLAS

# All of fastmath but "nnan" and "ninf": a diverged run must show as NaN or inf in the results.
compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "afn", "reassoc"})

# Written out where it is called: handing a member's dozens of arrays to a function costs more than a small layer does.
inlined = njit(inline="always")


class Member(NamedTuple):
    """One model's float32 arrays, one entry per layer, C-contiguous, updated in place.

    weights (out, in), biases (out,), and the optimizer's first and second moments of the same shapes (SGD reads
    none: any arrays of the right rank will do).
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    weight_means: tuple[np.ndarray, ...]
    weight_squares: tuple[np.ndarray, ...]
    bias_means: tuple[np.ndarray, ...]
    bias_squares: tuple[np.ndarray, ...]


class Optimizer(NamedTuple):
    """``torch.optim``'s SGD (without momentum), Adam and AdamW; decay also of biases, as there."""

    kind: int
    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


class Presentation(NamedTuple):
    """How windows are shown: N samples, ``stride`` further each step, for ``time_steps`` updates each.

    stride: 1 slides, N makes plain batches.  rate: dt / tau, 1 for an MLP.
    """

    window: int
    stride: int
    time_steps: int
    rate: float


class Learning(NamedTuple):
    """rule: BIOHSIC, FROZEN or BACKPROP.  log_hsic: whether HSIC is measured, with gamma and the sigmas."""

    rule: int
    log_hsic: bool
    gamma: float
    sigma_y: float
    sigma_z: float


class Workspace(NamedTuple):
    """What a step writes on its way; layer l reads h[l], h[0] is the window of inputs, h[L] is u[L - 1]."""

    h: tuple[np.ndarray, ...]  # (in, N), L + 1 of them
    u: tuple[np.ndarray, ...]  # (out, N)
    signal: tuple[np.ndarray, ...]  # (out, N) gradient with respect to h[l + 1], then to W h + b
    inverse_deviation: np.ndarray  # (L, N) of layer norm
    places: np.ndarray  # (3, N)
    newest: np.ndarray  # (largest in,)
    gradient: np.ndarray  # (BLOCK or largest in,)
    kx: np.ndarray  # (N, N)
    ky: np.ndarray  # (N, N)
    pairs: np.ndarray  # (3, N (N - 1) / 2 + VECTOR) centred kx, centred ky, squared distances of z


@njit(nogil=True, cache=True, fastmath={"contract"})  # reassociation would cancel the rounding constant
def exp(x):
    """e^x of a float32 below 88: relative error 2e-7, 0 below -87.3 (where float32 turns subnormal), NaN of NaN.

    x = n ln 2 + r with |r| <= ln(2)/2, so e^x = 2^n e^r: a polynomial and an exponent written bit by bit. Free of
    calls and branches, so that LLVM vectorises the loops around it, as it cannot with the C library's.
    """
    shifted = x * np.float32(1.44269504) + np.float32(12582912)  # 1.5 * 2^23: rounds, n is in the low bits
    n = shifted - np.float32(12582912)
    r = (x - n * np.float32(0.693145752)) - n * np.float32(1.42860677e-6)  # ln 2 in two parts: n * first is exact
    series = np.float32(1.0 / 5040)
    series = series * r + np.float32(1.0 / 720)
    series = series * r + np.float32(1.0 / 120)
    series = series * r + np.float32(1.0 / 24)
    series = series * r + np.float32(1.0 / 6)
    series = series * r + np.float32(0.5)
    series = series * r + np.float32(1)
    series = series * r + np.float32(1)
    exponent = (np.float32(shifted).view(np.int32) << np.int32(23)) + np.int32(0x3F800000)
    power = np.int32(exponent).view(np.float32)
    return np.float32(0) if x < np.float32(-87.3) else series * power


# Shared by all members: what depends on the samples alone ------------------------------------------------------


@compiled
def lagged_kernels(samples, window, sigma):
    """Kernels of each sample with those before it: (samples, N), ``[i, j] = k_sigma(x_i, x_{i-j})``.

    A window of kernels slides along it: only the newest row is new. samples: (n, d), in the order of presentation.
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
def window_kernels(lags, labels, first, other, kx, ky):
    """Fill kx and ky, (N, N), of the window that begins at sample ``first``; other: ky of unequal labels."""
    for i in range(kx.shape[0]):
        for p in range(i + 1):
            kx[i, p] = kx[p, i] = lags[first + i, i - p]
            ky[i, p] = ky[p, i] = np.float32(1) if labels[first + i] == labels[first + p] else other


@compiled
def label_kernel(sigma, num_classes):
    """k_sigma of two unequal one-hot labels, whose squared distance is 2."""
    return np.float32(math.exp(-1 / (sigma**2 * num_classes)))


@compiled
def modulation_weights(lags, labels, num_classes, window, stride, gamma, sigma_y, exact):
    """What of the modulatory signal the data alone determine: (steps, N) weights c, with

        xi = 2 / (sigma_z^2 d) sum_p c_p k_z(z_N, z_p) (z_N - z_p)

    exact: c_p = -A[N,p] / (N-1)^2;  published: c_p = (C[p,p] + C[N,N]) / (N (N-1)^2). Row means and not centred
    matrices are all that either needs.
    """
    steps = (len(labels) - window) // stride + 1
    other = label_kernel(sigma_y, num_classes)
    kx, ky = np.empty((window, window), np.float32), np.empty((window, window), np.float32)
    means = np.empty(window)
    weights = np.empty((steps, window), np.float32)
    for step in range(steps):
        window_kernels(lags, labels, step * stride, other, kx, ky)
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


# Forward ---------------------------------------------------------------------------------------------------------


@compiled
def integrate(weight, bias, h, u, drive, rate):
    """``u <- u + rate (W h + b - u)``.  h: (in, N).  u, drive: (out, N), drive is scratch.

    At a rate of 1 the old u is not read: reassociated, even ``0 u`` would leave its rounding.
    """
    np.dot(weight, h, drive)
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
    """One pass of the window h[0] through all layers; leaves h, u and the inverse deviations."""
    readout = len(member.weights) - 1
    for layer in range(readout + 1):
        u = work.u[layer]
        integrate(member.weights[layer], member.biases[layer], work.h[layer], u, work.signal[layer], rate)
        if layer < readout:
            activate(u, work.h[layer + 1], work.inverse_deviation[layer], work.places[0])


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


# HSIC and the modulatory signal ----------------------------------------------------------------------------------


@compiled
def centered_pairs(k, means, pairs):
    """``H K H`` of a symmetric k, (N, N), at the pairs p < i, row after row.  means: (N,) scratch."""
    num = k.shape[0]
    mean = np.float32(0)
    for i in range(num):
        total = np.float32(0)
        for p in range(num):
            total += k[i, p]
        means[i] = total / np.float32(num)
        mean += means[i] / np.float32(num)
    pair = 0
    for i in range(num):
        for p in range(i):
            pairs[pair] = k[i, p] + mean - means[i] - means[p]
            pair += 1


@compiled
def hsic(kx_pairs, ky_pairs, z, sigma, distance):
    """(HSIC(X, Z), HSIC(Y, Z)) of z, (features, N), with the ``centered_pairs`` of kx and ky.

    ``tr(Kx H Kz H) = sum (H Kx H) * Kz``, and as H Kx H sums to zero, Kz - 1 serves as well as Kz: it vanishes on
    the diagonal, which leaves twice the sum over pairs.  distance: scratch as long as kx_pairs.
    """
    features, num = z.shape
    start = 0
    for i in range(1, num):
        # Rounded up to whole vectors, since a loop's remainder is slow: the next row overwrites what is too much.
        length = min(num, (i | (VECTOR - 1)) + 1)
        squared_distances(z, i, distance[start : start + length])
        start += i
    scale = np.float32(-1 / (2 * sigma**2 * features))
    hsic_x, hsic_y = np.float32(0), np.float32(0)
    for pair in range(start):
        kz = exp(scale * distance[pair]) - np.float32(1)
        hsic_x += kx_pairs[pair] * kz
        hsic_y += ky_pairs[pair] * kz
    share = 2 / max(num - 1, 1) ** 2  # the HSIC of a single sample is 0
    return share * hsic_x, share * hsic_y


@inlined
def squared_distances(z, place, distance):
    """``distance[p] = |z_place - z_p|^2`` of as many places p as distance is long.  z: (features, N)."""
    for p in range(len(distance)):
        distance[p] = 0
    for f in range(z.shape[0]):
        for p in range(len(distance)):
            difference = z[f, place] - z[f, p]
            distance[p] += difference * difference


@compiled
def modulate(z, weights, sigma, signal, factor):
    """The signal xi of a hidden layer, written to the newest place of signal.  z, signal: (out, N).

    ``xi = 2 / (sigma^2 d) sum_p c_p k_z(z_N, z_p) (z_N - z_p)``, c: weights (N,).  factor: (N,) scratch.
    """
    features, num = z.shape
    spread = np.float32(2 * sigma**2 * features)
    squared_distances(z, num - 1, factor)
    for p in range(num):
        factor[p] = weights[p] * exp(-factor[p] / spread) * (np.float32(4) / spread)
    for f in range(features):
        xi = np.float32(0)
        for p in range(num):
            xi += factor[p] * (z[f, num - 1] - z[f, p])
        signal[f, num - 1] = xi


# Backward and update ---------------------------------------------------------------------------------------------


@compiled
def pull_back(signal, u, z, inverse_deviation, rate, first, places):
    """Gradient with respect to z turned, in place, into that with respect to W h + b: layer norm, relu, dt / tau.

    signal, u, z: (out, N), places ``first`` and later.  places: (2, N) scratch.
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
            first = beta1 * mean[i] + rest1 * slope
            second = beta2 * square[i] + rest2 * slope * slope
            mean[i] = np.float32(0) if abs(first) < TINY else first
            square[i] = np.float32(0) if second < TINY else second
            parameter[i] = keep * parameter[i] - step * mean[i] / (math.sqrt(square[i]) * spread + eps)


@compiled
def update_layer(member, layer, h, signal, first, work, optimizer, sizes):
    """``dW = signal h^T`` and ``db = sum signal`` over the places ``first`` and later, applied by the optimizer.

    h: (in, N).  signal: (out, N). The gradient is made and spent a block of rows at a time.
    """
    weight = member.weights[layer]
    outputs, inputs = weight.shape
    num = h.shape[1]
    parameter = weight.reshape(-1)
    mean, square = member.weight_means[layer].reshape(-1), member.weight_squares[layer].reshape(-1)
    for i in range(inputs):
        work.newest[i] = h[i, num - 1]
    rows = max(1, BLOCK // inputs)
    for start in range(0, outputs, rows):
        stop = min(start + rows, outputs)
        gradient = work.gradient[: (stop - start) * inputs]
        block = gradient.reshape(stop - start, inputs)
        if first == 0:
            np.dot(signal[start:stop], h.T, block)
        else:
            for o in range(stop - start):
                strength = signal[start + o, num - 1]
                for i in range(inputs):
                    block[o, i] = strength * work.newest[i]
        part = slice(start * inputs, stop * inputs)
        descend(parameter[part], gradient, mean[part], square[part], optimizer, sizes)
    gradient = work.gradient[:outputs]
    for o in range(outputs):
        total = np.float32(0)
        for p in range(first, num):
            total += signal[o, p]
        gradient[o] = total
    descend(
        member.biases[layer],
        gradient,
        member.bias_means[layer],
        member.bias_squares[layer],
        optimizer,
        sizes,
    )


# The loop --------------------------------------------------------------------------------------------------------


@inlined
def learn(member, work, rule, sigma_z, modulation, rate, optimizer, updates):
    """Turn the readout's signal into every layer's update.  modulation: (N,) weights of the window's xi."""
    readout = len(member.weights) - 1
    newest = work.h[0].shape[1] - 1
    first = 0 if rule == BACKPROP else newest
    lowest = readout if rule == FROZEN else 0
    for layer in range(readout - 1, lowest - 1, -1):
        z, signal = work.h[layer + 1], work.signal[layer]
        if rule == BACKPROP:
            np.dot(member.weights[layer + 1].T, work.signal[layer + 1], signal)
        else:
            modulate(z, modulation, sigma_z, signal, work.places[0])
        pull_back(signal, work.u[layer], z, work.inverse_deviation[layer], rate, first, work.places)
    sizes = step_sizes(optimizer, updates)
    for layer in range(lowest, readout + 1):
        start = 0 if layer == readout else first
        update_layer(member, layer, work.h[layer], work.signal[layer], start, work, optimizer, sizes)


@compiled
def train_windows(member, work, samples, labels, lags, modulation, presentation, learning, optimizer, updates, totals):
    """Every window of the chunk, in order; see ``train_chunk``."""
    window, stride, time_steps, dt_over_tau = presentation
    rule, log_hsic, gamma, sigma_y, sigma_z = learning
    rate = np.float32(dt_over_tau)
    readout = len(member.weights) - 1
    other = label_kernel(sigma_y, member.weights[readout].shape[0])
    for step in range((len(samples) - window) // stride + 1):
        first = step * stride
        for i in range(samples.shape[1]):
            for p in range(window):
                work.h[0][i, p] = samples[first + p, i]
        window_labels = labels[first : first + window]
        if log_hsic:
            window_kernels(lags, labels, first, other, work.kx, work.ky)
            centered_pairs(work.kx, work.places[0], work.pairs[0])
            centered_pairs(work.ky, work.places[0], work.pairs[1])
        for _ in range(time_steps):
            updates += 1
            forward(member, work, rate)
            loss, accuracy = readout_signal(work.u[readout], window_labels, work.signal[readout], rate, work.places)
            totals[0] += loss / time_steps
            totals[1] += accuracy / time_steps
            if log_hsic:
                for layer in range(readout + 1):
                    z, pairs = work.h[layer + 1], work.pairs
                    hsic_x, hsic_y = hsic(pairs[0], pairs[1], z, sigma_z, pairs[2])
                    totals[2 + 3 * layer] += (hsic_x - gamma * hsic_y) / time_steps
                    totals[3 + 3 * layer] += hsic_x / time_steps
                    totals[4 + 3 * layer] += hsic_y / time_steps
            weights = modulation[step] if rule == BIOHSIC else modulation[0]
            learn(member, work, rule, sigma_z, weights, rate, optimizer, updates)
    return updates


def workspace(member, window, membranes=None):
    """The scratch memory of a member at windows of N; membranes, (N, out) a layer, are copied into u."""
    shapes = [w.shape for w in member.weights]
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    if membranes is None:
        u = tuple(zeros(out, window) for out, _ in shapes)
    else:
        u = tuple(np.array(m.T, np.float32, order="C") for m in membranes)
    inner = [zeros(inputs, window) for _, inputs in shapes]
    return Workspace(
        h=(*inner, u[-1]),
        u=u,
        signal=tuple(zeros(out, window) for out, _ in shapes),
        inverse_deviation=zeros(len(shapes), window),
        places=zeros(3, window),
        newest=zeros(max(inputs for _, inputs in shapes)),
        gradient=zeros(max(BLOCK, *(max(shape) for shape in shapes))),
        kx=zeros(window, window),
        ky=zeros(window, window),
        pairs=zeros(3, window * (window - 1) // 2 + VECTOR),
    )
