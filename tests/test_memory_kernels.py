"""Streams of samples with a memory: the kernels against the modulators, automatic differentiation and torch.optim."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from memory_samples import CLASSES, MEMORIES, random_samples, sample_at
from torch.nn.functional import cross_entropy, layer_norm
from torch.utils._pytree import tree_leaves

from projectlib.engines.cpu.kernels import hsic as hsic_kernels
from projectlib.engines.cpu.kernels import memories as memory_kernels
from projectlib.engines.cpu.kernels import mlp as mlp_kernels
from projectlib.engines.cpu.kernels import stream as kernels
from projectlib.engines.cpu.kernels.cells import Neuron
from projectlib.hsic import LABEL_FORMS
from projectlib.modulators.modulator import Sample

SIZES = (7, 20, 9, CLASSES)  # of which 9 and 4 fill no vector
OPTIMIZERS = {
    "sgd": (mlp_kernels.SGD, lambda p, lr: torch.optim.SGD(p, lr=lr, weight_decay=0.1)),
    "adam": (
        mlp_kernels.ADAM,
        lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    ),
    "adamw": (
        mlp_kernels.ADAMW,
        lambda p, lr: torch.optim.AdamW(p, lr=lr, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    ),
}
RATES = 1e-2, 3e-2  # of hidden layers, and of the readout


@pytest.fixture(params=MEMORIES)
def memory(request):
    return MEMORIES[request.param]


def slow_stream(weights, biases, memory, samples, optimizer, accumulate, replayed, time_steps=1, rate=1.0):
    """The same learning in float64: the modulators of torch, gradients by automatic differentiation, torch.optim.

    Returns (parameters, memories, membranes, [loss, accuracy]).
    """
    parameters = [torch.tensor(a, requires_grad=True) for pair in zip(weights, biases, strict=True) for a in pair]
    optimizers = optimizer(parameters[:-2], RATES[0]), optimizer(parameters[-2:], RATES[1])
    membranes = [torch.zeros(len(b), dtype=torch.float64) for b in biases]
    zeros = [Sample(torch.zeros(7), torch.zeros(CLASSES), torch.zeros(len(b))) for b in biases[:-1]]
    zeros = [Sample(*(part.double() for part in sample)) for sample in zeros]
    memories = [memory.initial_state(sample, torch.Generator()) for sample in zeros]
    past, totals = [], torch.zeros(2, dtype=torch.float64)
    stream = [sample_at(samples, t // time_steps) for t in range(len(samples.x) * time_steps)]
    for begin in range(0, len(stream), accumulate):
        block = stream[begin : begin + accumulate]
        for x, y, _ in block:
            h, objective = x, 0
            for layer, old in enumerate(membranes):
                u = old + rate * (parameters[2 * layer] @ h + parameters[2 * layer + 1] - old)
                membranes[layer] = u.detach()
                if layer == len(memories):
                    break
                z = layer_norm(u.relu(), u.shape, eps=1e-6)
                xi, memories[layer] = memory(Sample(x, y, z.detach()), memories[layer], None)
                objective = objective + z @ xi
                h = z.detach()
            of_sample = torch.stack([cross_entropy(u, y), (u.argmax() == y.argmax()).double()]).detach()
            totals += of_sample / (len(block) * time_steps)
            past = [*past, (h, old, y)][-replayed - 1 :]
            for replayed_h, before, replayed_y in past:
                u = before + rate * (parameters[-2] @ replayed_h + parameters[-1] - before)
                objective = objective + cross_entropy(u, replayed_y) / len(past)
            (objective / len(block)).backward()
        for each in optimizers:
            each.step()
            each.zero_grad()
    return parameters, memories, membranes, totals


SETTINGS = {
    "remembered": lambda m: memory_kernels.RememberedSettings(hsic_kernels.form_of(m.signal), m.sigmas[2]),
    "covariance": lambda m: memory_kernels.CovarianceSettings(float(m.horizon), m.weight),
    "delta": lambda m: memory_kernels.DeltaSettings(m.learning_rate, float(m.horizon)),
    "class-means": lambda m: memory_kernels.ClassMeansSettings(m.rate, m.temperature),
}
"""Of the engine's types: for others the loop would be compiled once more."""


def remembering(memory, width):
    """What a layer remembers before the first sample, as its kernel has it."""
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    if memory.kernel == "remembered":
        return memory_kernels.Remembered(zeros(memory.size, CLASSES), zeros(memory.size, width))
    if memory.kernel == "covariance":
        return memory_kernels.Covariances(zeros(width), zeros(CLASSES), zeros(width, width), zeros(CLASSES, width))
    if memory.kernel == "delta":
        return memory_kernels.Predictor(zeros(width), zeros(CLASSES), zeros(CLASSES, width))
    return memory_kernels.ClassMeans(zeros(CLASSES, width))


def window_weights(memory, samples, labels):
    """(n, M) weights c of what is remembered at every time step; rows of a memory that is not full are not read."""
    if memory.kernel != "remembered" or memory.signal in LABEL_FORMS:
        return np.zeros((1, 1), np.float32)
    size = memory.size
    lags = hsic_kernels.lagged_kernel_values(samples, size, memory.sigmas[0])
    exact = memory.signal == "exact"
    options = size, 1, memory.gamma, memory.sigmas[1], exact
    weights = hsic_kernels.scaled_modulation_weights(lags, labels, CLASSES, *options)
    return np.concatenate([np.full((size - 1, size), np.nan, np.float32), weights])


def fast_stream(weights, biases, memory, samples, kind, accumulate, replayed, time_steps=1, rate=1.0, pieces=1):
    """The kernels on float32 copies, in that many calls; returns as ``slow_stream``."""
    copies = [[np.array(a, np.float32) for a in pair] for pair in zip(weights, biases, strict=True)]
    member = tuple(
        mlp_kernels.Layer(*(b for a in pair for b in (a, np.zeros_like(a), np.zeros_like(a)))) for pair in copies
    )
    memories = tuple(remembering(memory, len(b)) for b in biases[:-1])
    membranes = tuple(np.zeros(len(b), np.float32) for b in biases)
    width = len(biases[-2])
    replay = kernels.Replay(
        np.zeros((replayed, width), np.float32), np.zeros((replayed, CLASSES), np.float32), np.zeros(replayed, np.int64)
    )
    work = kernels.workspace(member, getattr(memory, "size", 0), replayed, accumulate)
    optimizers = tuple(mlp_kernels.Optimizer(kind, lr, 0.8, 0.95, 1e-3, 0.1) for lr in RATES)
    x, labels = samples.x.numpy().astype(np.float32), samples.y.argmax(1).numpy()
    of_steps = window_weights(memory, x.repeat(time_steps, 0), labels.repeat(time_steps))
    totals, count, updates = np.zeros(2), 0, 0
    for part in np.array_split(np.arange(len(x)), pieces):
        rows = of_steps[part[0] * time_steps :][: len(part) * time_steps] if len(of_steps) > 1 else of_steps
        count, updates = kernels.train_stream(
            member,
            memories,
            SETTINGS[memory.kernel](memory),
            replay,
            membranes[:-1],
            membranes[-1],
            Neuron(rate),
            work,
            x[part],
            labels[part],
            rows,
            kernels.Stream(time_steps, accumulate),
            optimizers,
            count,
            updates,
            totals,
        )
    return member, memories, membranes, totals


def random_network():
    random = np.random.default_rng(0)
    weights = [random.normal(size=(out, size)) / np.sqrt(size) for size, out in pairwise(SIZES)]
    return weights, [0.1 * random.normal(size=out) for out in SIZES[1:]]


def check_stream(memory, optimizer, accumulate, replayed, **presentation):
    kind, make = OPTIMIZERS[optimizer]
    samples = random_samples(23)
    samples = samples._replace(x=samples.x.float().double())
    arguments = (*random_network(), memory, samples)
    member, memories, membranes, totals = fast_stream(*arguments, kind, accumulate, replayed, **presentation)
    parameters, expected, slow_membranes, slow_totals = slow_stream(
        *arguments, make, accumulate, replayed, **presentation
    )
    got = [a for layer in member for a in (layer.weight, layer.bias)]
    for array, parameter in zip(got, parameters, strict=True):
        np.testing.assert_allclose(array, parameter.detach(), rtol=1e-4, atol=5e-6)
    for arrays, state in zip(memories, expected, strict=True):
        leaves = [leaf for leaf in tree_leaves(state) if leaf.is_floating_point()]
        for array, leaf in zip(arrays, leaves[-len(arrays) :], strict=True):
            np.testing.assert_allclose(array, leaf, rtol=1e-4, atol=1e-5)
    for array, expected_u in zip(membranes, slow_membranes, strict=True):
        np.testing.assert_allclose(array, expected_u, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(totals, slow_totals, rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_kernels_equal_eager(memory, optimizer, accumulate):
    """Weights, what is remembered, loss and accuracy; the readout learns from the last three samples."""
    check_stream(memory, optimizer, accumulate, replayed=2)


@pytest.mark.parametrize(("accumulate", "replayed"), [(1, 0), (3, 0), (3, 5)])
def test_leaky_integrators_equal_eager(memory, accumulate, replayed):
    check_stream(memory, "adamw", accumulate, replayed, time_steps=4, rate=0.3)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_is_the_same_wherever_a_chunk_begins(memory, accumulate):
    samples = random_samples(24)
    whole, parts = (
        fast_stream(*random_network(), memory, samples, mlp_kernels.ADAMW, accumulate, 3, 2, 0.3, pieces)
        for pieces in (1, 3)
    )
    for once, cut in zip(tree_leaves(whole), tree_leaves(parts), strict=True):
        np.testing.assert_array_equal(once, cut)
