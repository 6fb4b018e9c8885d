"""What memories are measured by while a network learns: objective, cosine with the exact signal, norm."""

import pytest
import torch
from torch.nn.functional import one_hot
from torch.utils._pytree import tree_leaves, tree_map

from projectlib import load
from projectlib.data import Split
from projectlib.ensemble import build_ensemble
from projectlib.models import mlp
from projectlib.modulators import (
    ClassMeansModulator,
    CovarianceModulator,
    DeltaModulator,
    RememberedModulator,
    Sample,
)
from projectlib.modulators.class_means import directions
from projectlib.modulators.covariance import Covariances
from projectlib.modulators.delta import RIDGE, Predictor
from projectlib.modulators.memory import Blocks
from projectlib.modulators.running import Means, covariances
from projectlib.training.memory_monitor import MemoryMonitor

MEMORIES = {
    "remembered": RememberedModulator(8),
    "exact": RememberedModulator(8, "exact"),
    "covariance": CovarianceModulator(weight=1.3),
    "delta": DeltaModulator(),
    "class-means": ClassMeansModulator(),
}
CLASSES = 3


def samples_of(num=40, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (num,), generator=generator)
    y = one_hot(labels, CLASSES).double()
    x = torch.randn(num, 5, dtype=torch.float64, generator=generator)
    z = torch.randn(num, width, dtype=torch.float64, generator=generator) + labels[:, None]
    return Sample(x, y, z)


def settled(memory, samples):
    """The state of a memory that knows the samples' own statistics."""
    zz, yz = covariances(samples)
    means = Means(samples.z.mean(0) / samples.z.shape[1] ** 0.5, samples.y.mean(0), torch.tensor(len(samples.z)))
    if isinstance(memory, CovarianceModulator):
        return Covariances(means, zz, yz)
    ridge = RIDGE * zz.diagonal().mean() * torch.eye(len(zz), dtype=zz.dtype)
    return Predictor(means, yz @ torch.linalg.inv(zz + ridge))


def network_and_monitor(memory, samples):
    """Two models of one hidden layer of 6, and what looks at its memory."""
    shape = [samples.x.shape[1]]
    ensemble = build_ensemble(lambda g: mlp(shape, CLASSES, features=[6], generator=g).double(), range(2))
    return ensemble, MemoryMonitor(ensemble, memory, Split(samples.x, samples.y.argmax(1)), CLASSES)


@pytest.mark.parametrize("name", ["covariance", "delta"])
def test_a_settled_memory_supplies_the_exact_signal(name):
    """Of these two the signal at a sample is the gradient of the objective there, up to one factor for all."""
    memory = MEMORIES[name]
    ensemble, monitor = network_and_monitor(memory, samples_of())
    z, _ = ensemble.network.run(ensemble.member(0), ensemble.network.initial_state(40), monitor.x)
    samples = Sample(monitor.x, monitor.y, z[0])
    assert monitor.cosine(samples.z, settled(memory, samples)).item() == pytest.approx(1, abs=1e-9)
    other = samples_of(seed=1)
    assert monitor.cosine(samples.z, settled(memory, other)).item() < 0.9


def test_an_empty_memory_has_no_signal():
    for memory in MEMORIES.values():
        _, monitor = network_and_monitor(memory, samples_of())
        zeros = Sample(monitor.x[0], monitor.y[0], torch.zeros(6, dtype=torch.float64))
        state = memory.initial_state(zeros, torch.Generator())
        metrics = monitor([tree_map(lambda leaf: torch.stack([leaf, leaf]), state)])
        assert metrics["norm_layer0"].tolist() == metrics["cosine_layer0"].tolist() == [0, 0]


@pytest.mark.parametrize("name", MEMORIES)
def test_a_layer_that_is_the_same_for_all_samples_has_an_objective(name):
    """As one of neurons that never fire: there is nothing to follow, and nothing fails."""
    monitor = network_and_monitor(MEMORIES[name], samples_of())[1]
    z = torch.zeros(len(monitor.x), 6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(MEMORIES[name].objective(Sample(monitor.x, monitor.y, z)), z)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", MEMORIES)
def test_objectives_are_their_double_loops(name):
    samples, memory = samples_of(num=12), MEMORIES[name]
    x, y, z = samples
    num, width = z.shape

    def kernel(a, b, sigma):
        return torch.exp(-(a - b).square().sum() / (2 * sigma**2 * a.numel()))

    def matrix(a, sigma):
        return torch.stack([torch.stack([kernel(a[i], a[j], sigma) for j in range(num)]) for i in range(num)])

    def hsic(a, b):
        centering = torch.eye(num, dtype=z.dtype) - 1 / num
        return torch.trace(a @ centering @ b @ centering) / (num - 1) ** 2

    def covariance(a, b):
        return sum(torch.outer(p - a.mean(0), q - b.mean(0)) for p, q in zip(a, b, strict=True)) / num

    scaled = z / width**0.5
    zz, yz = covariance(scaled, scaled), covariance(y, scaled)
    if name == "covariance":
        expected = 1.3 / 2 * zz.square().sum() - yz.square().sum()
    elif name == "delta":
        ridge = 1e-3 * torch.trace(zz) / width * torch.eye(width, dtype=z.dtype)
        expected = -torch.trace(yz @ torch.linalg.inv(zz + ridge) @ yz.T)
    elif name == "exact":
        kx, ky, kz = matrix(x, 0.5), matrix(y, 0.1), matrix(z, 1.0)
        expected = hsic(kx, kz) - 2 * hsic(ky, kz)
    elif name == "remembered":
        surprises = []
        for n in range(num):
            near = [(kernel(z[n], z[p], 0.265), bool((y[n] == y[p]).all())) for p in range(num) if p != n]
            surprises.append(-torch.log(sum(k for k, same in near if same) / sum(k for k, _ in near)))
        expected = torch.stack(surprises).mean()
    else:
        means = torch.stack([z[y[:, c] == 1].mean(0) for c in range(CLASSES)])
        apart = [m - means.mean(0) for m in means]
        along = torch.stack([m / (m.norm() + 1e-3) for m in apart])
        logits = z @ along.T / (width**0.5 * 0.07)
        expected = torch.nn.functional.cross_entropy(logits, y)
    torch.testing.assert_close(memory.objective(samples), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MEMORIES)
def test_what_is_learnt_of_a_class_points_to_it(name):
    """After many samples of classes that lie apart, each class's direction has the largest product with its mean."""
    samples, memory = samples_of(num=60), MEMORIES[name]
    z = torch.eye(6, dtype=torch.float64)[samples.y.argmax(1)] + 0.1 * samples.z
    zeros = Sample(*(torch.zeros_like(part[0]) for part in samples))
    state = memory.initial_state(zeros, torch.Generator())
    for index in range(60):
        _, state = memory(Sample(samples.x[index], samples.y[index], z[index]), state, None)
    learnt = memory.of_classes(memory.remembered(state))
    means = torch.stack([z[samples.y[:, c] == 1].mean(0) for c in range(CLASSES)])
    assert learnt.shape == (CLASSES, 6)
    assert ((means - means.mean(0)) @ learnt.T).argmax(0).tolist() == [0, 1, 2]


def test_of_images_it_recalls_what_it_would_have_supplied():
    generator = torch.Generator().manual_seed(3)
    memory = ClassMeansModulator(grid=2)
    zeros = Sample(torch.zeros(5), torch.zeros(CLASSES), torch.zeros(4, 4, 3))
    state = memory.initial_state(zeros, generator)
    for label in (0, 1, 2, 0):
        z, y = torch.randn(4, 4, 3, generator=generator), torch.eye(CLASSES)[label]
        sample = Sample(torch.zeros(5), y, z)
        seen, recalled = memory.recall(sample, state)
        supplied, after = memory(sample, state, None)
        block_means = torch.stack([supplied[r : r + 2, c : c + 2].mean((0, 1)) for r in (0, 2) for c in (0, 2)])
        assert isinstance(after, Blocks)
        assert seen.shape == recalled.shape == (12,)
        torch.testing.assert_close(block_means.flatten(), recalled)
        state = after
    assert directions(memory.remembered(state))[0].all()


def test_metrics_are_logged_where_they_are_asked_for(script, tmp_path):
    common = ("data=digits", "data.limit=60", "nmodels=2", "training.nepochs=1", "training.log_memory=true")
    arrays = "training.log_arrays=[0,1]"
    ended = script("train-biohsic", *common, arrays, "modulator=delta", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 0, ended.error
    run = load(tmp_path / "run")
    rows = run.metrics[run.metrics["split"] == "memory"]
    assert [*rows["epoch"]] == [1, 1]
    assert (rows["norm_layer0"] > 0).all()
    assert (rows["cosine_layer1"].abs() <= 1).all()
    assert "memory: cosine_layer0" in ended.output
    refused = script("train-biohsic", *common, "modulator=window", f"hydra.run.dir={tmp_path / 'none'}")
    assert refused.code == 1
    assert "training.log_memory is true, but no hidden layer has a memory" in refused.error


def test_leaves_of_a_state_are_counted_by_the_norm():
    """The norm is that of everything that is remembered."""
    memory = DeltaModulator()
    _, monitor = network_and_monitor(memory, samples_of())
    zeros = Sample(monitor.x[0], monitor.y[0], torch.zeros(6, dtype=torch.float64))
    state = memory.initial_state(zeros, torch.Generator())
    filled = tree_map(lambda leaf: torch.ones(2, *leaf.shape, dtype=leaf.dtype), state)
    numbers = sum(leaf.numel() for leaf in tree_leaves(state) if leaf.is_floating_point())
    assert monitor([filled])["norm_layer0"].tolist() == pytest.approx([numbers**0.5] * 2)
