"""Memories that supply the signal: against automatic differentiation, loops and the window."""

import math

import numpy as np
import pytest
import torch
from memory_samples import CLASSES, GAMMA, MEMORIES, SIGMA, SIGMAS, random_samples, sample_at
from torch.utils._pytree import tree_leaves, tree_map

from projectlib.engines.cpu.kernels import hsic as hsic_kernels
from projectlib.errors import UserError
from projectlib.hsic import FORMS, LABEL_FORMS, kernel_matrix, modulation
from projectlib.modulators.class_means import ClassMeansModulator
from projectlib.modulators.covariance import CovarianceModulator, Covariances
from projectlib.modulators.delta import DeltaModulator, Predictor
from projectlib.modulators.modulator import Sample
from projectlib.modulators.remembered import RememberedModulator
from projectlib.modulators.running import Means
from projectlib.rules import BioHSIC

EXACT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(params=MEMORIES)
def memory(request):
    return MEMORIES[request.param]


def start(memory, samples):
    zeros = Sample(*(torch.zeros_like(part[0]) for part in samples))
    return memory.initial_state(zeros, torch.Generator())


def run(memory, samples, state=None):
    """(xi of every sample, the last state)."""
    state, signals = start(memory, samples) if state is None else state, []
    for index in range(len(samples.x)):
        xi, state = memory(sample_at(samples, index), state, None)
        signals.append(xi)
    return torch.stack(signals), state


# The signals are gradients ---------------------------------------------------------------------------------------


def covariances(y, z):
    """(C_zz, C_yz) of samples of y (N, classes) and z (N, d), around their means."""
    z, y = z - z.mean(0), y - y.mean(0)
    return z.T @ z / len(z), y.T @ z / len(z)


def means_of(samples):
    return Means(samples.z.mean(0) / samples.z.shape[1] ** 0.5, samples.y.mean(0), torch.tensor(len(samples.z)))


def linear_hsic(a, b):
    """``tr(A A' H B B' H) / N^2``."""
    centering = torch.eye(len(a), dtype=a.dtype) - 1 / len(a)
    return torch.trace(a @ a.T @ centering @ b @ b.T @ centering) / len(a) ** 2


def newest_gradient(objective, z):
    """Of ``objective(z)`` with respect to the newest row of z alone, by automatic differentiation."""
    newest = z[-1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(torch.cat([z[:-1], newest[None]])), newest)
    return gradient


def test_covariances_descend_linear_hsic():
    """2 / (N sqrt(d)) xi is the gradient of w/2 HSIC(Z, Z) - HSIC(Y, Z), z~ being of unit length."""
    samples, weight = random_samples(40), 1.3
    num, width = samples.z.shape
    state = Covariances(means_of(samples), *covariances(samples.y, samples.z / width**0.5))
    xi, _ = CovarianceModulator(1e3, weight)(sample_at(samples, -1), state, None)

    def objective(z):
        z = z / width**0.5
        return weight / 2 * linear_hsic(z, z) - linear_hsic(samples.y, z)

    expected = newest_gradient(objective, samples.z)
    torch.testing.assert_close(2 / (num * width**0.5) * xi, expected, **EXACT)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_a_settled_delta_memory_descends_normalised_hsic(epsilon):
    """2 / (N sqrt(d)) xi is the gradient of -tr[C_yz (C_zz + eps)^-1 C_zy]."""
    samples = random_samples(40)
    num, width = samples.z.shape
    ridge = epsilon * torch.eye(width, dtype=torch.float64)
    zz, yz = covariances(samples.y, samples.z / width**0.5)
    state = Predictor(means_of(samples), yz @ torch.linalg.inv(zz + ridge))
    xi, _ = DeltaModulator()(sample_at(samples, -1), state, None)

    def objective(z):
        zz, yz = covariances(samples.y, z / width**0.5)
        return -torch.trace(yz @ torch.linalg.inv(zz + ridge) @ yz.T)

    torch.testing.assert_close(2 / (num * width**0.5) * xi, newest_gradient(objective, samples.z), **EXACT)


def test_a_delta_memory_settles():
    """Taught slowly, Q moves to where the least squares are: C_yz C_zz^-1."""
    samples = random_samples(30)
    zz, yz = covariances(samples.y, samples.z / 6**0.5)
    memory, state = DeltaModulator(learning_rate=0.02, horizon=1e9), start(DeltaModulator(), samples)
    means = means_of(samples)
    for _ in range(300):
        _, state = run(memory, samples, state)
        state = Predictor(means, state.q)
    torch.testing.assert_close(state.q, yz @ torch.linalg.inv(zz), rtol=0, atol=0.02)


def test_parzen_descends_the_label_s_surprise():
    """xi is the gradient of -log(S_same / S_all), written as loops."""
    samples = random_samples(9)
    xi = run(RememberedModulator(9, "parzen", SIGMA), samples)[0][-1]

    def objective(z):
        same = whole = 0
        for p in range(8):
            k = torch.exp(-(z[-1] - z[p]).square().sum() / (2 * SIGMA**2 * 6))
            whole = whole + k
            same = same + k * bool((samples.y[p] == samples.y[-1]).all())
        return -torch.log(same / whole)

    assert (samples.y[:-1] == samples.y[-1]).all(1).any()
    torch.testing.assert_close(xi, newest_gradient(objective, samples.z), **EXACT)


def test_contrastive_descends_the_supervised_contrastive_loss():
    """xi is the gradient of L_out of Khosla et al. 2020, as their equation 2 has it, of activations of one length."""
    samples = random_samples(12)
    z = samples.z * (6**0.5 / samples.z.norm(dim=1, keepdim=True))
    xi = run(RememberedModulator(12, "contrastive", SIGMA), samples._replace(z=z))[0][-1]
    positive = [p for p in range(11) if (samples.y[p] == samples.y[-1]).all()]

    def objective(z):
        unit = z / 6**0.5
        likeness = [unit[-1] @ unit[p] / SIGMA**2 for p in range(11)]
        whole = sum(torch.exp(a) for a in likeness)
        return -sum(torch.log(torch.exp(likeness[p]) / whole) for p in positive) / len(positive)

    assert len(positive) > 1
    torch.testing.assert_close(xi, newest_gradient(objective, z), **EXACT)


def test_the_contrastive_objective_is_a_double_loop():
    samples = random_samples(9)
    memory, total = RememberedModulator(9, "contrastive", SIGMA), 0.0
    k = kernel_matrix(samples.z, SIGMA)
    for i in range(9):
        others = [p for p in range(9) if p != i]
        positive = [p for p in others if (samples.y[p] == samples.y[i]).all()]
        whole = sum(k[i, p] for p in others)
        total += sum(-torch.log(k[i, p] / whole) for p in positive) / max(len(positive), 1) / 9
    torch.testing.assert_close(memory.objective(samples), total, **EXACT)


def test_class_means_descend_their_softmax():
    """xi is sqrt(d) tau times the gradient of the cross-entropy between the softmax over classes and the label."""
    samples = random_samples(40)
    memory = MEMORIES["class-means"]
    _, means = run(memory, sample_at(samples, slice(0, -1)))
    xi, after = memory(sample_at(samples, -1), means, None)
    label = samples.y[-1].argmax()
    scale = math.sqrt(6) * memory.temperature

    def objective(z):
        apart = means - means.mean(0)
        directions = torch.stack([m / (m.norm() + 1e-3) for m in apart])
        return torch.nn.functional.cross_entropy(directions @ z[-1] / scale, label)

    torch.testing.assert_close(xi, scale * newest_gradient(objective, samples.z), **EXACT)
    expected = [0.7 * m + 0.3 * samples.z[-1] if c == label else m for c, m in enumerate(means)]
    torch.testing.assert_close(after, torch.stack(expected), **EXACT)


def test_equal_labels_are_told_apart_under_any_bandwidth():
    """A kernel of labels as wide as a million is 1 in float32 for all of them."""
    samples = Sample(*(part.float() for part in random_samples(12)))
    signals = [run(RememberedModulator(5, "parzen", SIGMA, GAMMA, (0.6, s, 0.9)), samples)[0] for s in (0.4, 1e6)]
    torch.testing.assert_close(*signals, rtol=0, atol=0)
    rules = [BioHSIC(GAMMA, (0.6, s, SIGMA), "parzen") for s in (0.4, 1e6)]
    signals = [rule.signal(samples.z, rule.prepare(samples.x, samples.y)) for rule in rules]
    torch.testing.assert_close(*signals, rtol=0, atol=0)


# What is remembered ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_memory_of_n_samples_is_a_window(form):
    """Activations that do not change make remembering and running again the same, at every place of the ring."""
    samples, size = random_samples(13), 5
    signals, _ = run(MEMORIES[f"remembered-{form}"], samples)
    sigma = SIGMA if form in LABEL_FORMS else SIGMAS[2]
    assert not signals[: size - 1].any()
    for newest in range(size - 1, 13):
        x, y, z = sample_at(samples, slice(newest - size + 1, newest + 1))
        kernels = kernel_matrix(x, SIGMAS[0]), kernel_matrix(y, SIGMAS[1]), kernel_matrix(z, sigma)
        torch.testing.assert_close(signals[newest], modulation(*kernels, z, GAMMA, sigma, form), **EXACT)


@pytest.mark.parametrize("form", LABEL_FORMS)
@pytest.mark.parametrize("sigma", [0.5, 0.02])
def test_narrow_kernels_that_float32_cannot_hold_leave_the_signal(form, sigma):
    """Of torch and of compiled code: at 0.02 the nearest kernel is e^-1000."""
    samples = random_samples(12)
    y, z, width = kernel_matrix(samples.y, 1.0), samples.z, sigma**2 * 6
    expected = modulation(None, y, None, z, 1.0, sigma, form)
    assert expected.isfinite().all()
    assert expected.any()
    near = {"rtol": 2e-3, "atol": 2e-3 / width}
    torch.testing.assert_close(
        modulation(None, y.float(), None, z.float(), 1.0, sigma, form).double(), expected, **near
    )

    distances, same = ((z[-1] - z).square().sum(1).float().numpy(), (y[-1] == 1).float().numpy())
    weights = np.zeros(12, np.float32)
    hsic_kernels.compare_labels(distances, same, 11, hsic_kernels.form_of(form), np.float32(width), weights)
    torch.testing.assert_close(torch.from_numpy(weights).double() @ (z[-1] - z), expected, **near)


@pytest.mark.parametrize("form", FORMS)
def test_remembered_signals_are_double_loops(form):
    samples, size, width = random_samples(8, z_shape=(2, 3), classes=2), 5, 6
    signals, _ = run(MEMORIES[f"remembered-{form}"], samples)
    x, y, z = (part[-size:].flatten(1).tolist() for part in samples)
    newest = size - 1

    def kernel(a, b, sigma):
        return math.exp(-(math.dist(a, b) ** 2) / (2 * sigma**2 * len(a)))

    q = [
        [kernel(x[i], x[j], SIGMAS[0]) - GAMMA * kernel(y[i], y[j], SIGMAS[1]) for j in range(size)]
        for i in range(size)
    ]
    mean = [sum(row) / size for row in q]
    expected = [0.0] * width
    for p in range(newest):
        if form == "published":
            c = (q[p][p] - mean[p] + q[newest][newest] - mean[newest]) / size * 2 / newest**2
        elif form == "exact":
            c = -(q[newest][p] - mean[newest] - mean[p] + sum(mean) / size) * 2 / newest**2
        else:
            near = [kernel(z[newest], z[i], SIGMA) for i in range(newest)]
            same = [near[i] if form == "parzen" else 1 for i in range(newest) if y[i] == y[newest]]
            c = (y[p] == y[newest]) / sum(same) / (1 if form == "parzen" else near[p]) - 1 / sum(near)
        sigma = SIGMA if form in LABEL_FORMS else SIGMAS[2]
        for i in range(width):
            expected[i] += c * kernel(z[newest], z[p], sigma) * (z[newest][i] - z[p][i]) / (sigma**2 * width)
    assert signals[-1].shape == (2, 3)
    torch.testing.assert_close(signals[-1].flatten(), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_covariances_and_means_are_running_sums():
    samples = random_samples(11)
    memory = MEMORIES["covariance"]
    _, state = run(memory, samples)
    mu, zz = [0.0] * 6, [[0.0] * 6 for _ in range(6)]
    nu, yz = [0.0] * CLASSES, [[0.0] * 6 for _ in range(CLASSES)]
    for t in range(11):
        rate = max(1 / 6, 1 / (t + 1))
        z = [float(samples.z[t, i]) / 6**0.5 - mu[i] for i in range(6)]
        y = [float(samples.y[t, c]) - nu[c] for c in range(CLASSES)]
        zz = [[(1 - rate) * zz[i][j] + rate * z[i] * z[j] for j in range(6)] for i in range(6)]
        yz = [[(1 - rate) * yz[c][j] + rate * y[c] * z[j] for j in range(6)] for c in range(CLASSES)]
        mu = [m + rate * a for m, a in zip(mu, z, strict=True)]
        nu = [m + rate * a for m, a in zip(nu, y, strict=True)]
    for got, expected in ((state.zz, zz), (state.yz, yz), (state.means.z, mu), (state.means.y, nu)):
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_means_over_blocks_are_centred_and_scaled_by_running_means(monkeypatch):
    """In a loop, beyond the horizon of the running means; the covariances see what comes out."""
    monkeypatch.setattr("projectlib.modulators.memory.BLOCKS_HORIZON", 5)
    samples, memory = random_samples(12, z_shape=(4, 6, 3)), MEMORIES["delta"]
    state = memory.initial_state(sample_at(samples, 0), torch.Generator())
    mean, scale = [0.0] * 12, 0.0
    for t in range(12):
        z = samples.z[t]
        places = [z[2 * i : 2 * i + 2, 3 * j : 3 * j + 3, c] for i in (0, 1) for j in (0, 1) for c in range(3)]
        rate, blocks = max(1 / 5, 1 / (t + 1)), [float(place.sum()) / 6 for place in places]
        deviations = [b - m for b, m in zip(blocks, mean, strict=True)]
        scale += rate * (sum(d * d for d in deviations) - scale)
        mean = [m + rate * d for m, d in zip(mean, deviations, strict=True)]
        expected = torch.tensor([d * (12 / scale) ** 0.5 for d in deviations], dtype=torch.float64)
        torch.testing.assert_close(memory.scaled(memory.averaged(z), state)[0], expected, **EXACT)
        _, state = memory(sample_at(samples, t), state, None)
        torch.testing.assert_close(state.mean, torch.tensor(mean, dtype=torch.float64), **EXACT)


def test_a_class_that_was_not_seen_gives_no_signal(memory):
    """Nor does the first sample, nor are there NaNs in what is remembered; a class that was seen gives one."""
    if memory.kernel == "remembered" and memory.signal not in LABEL_FORMS:
        pytest.skip("the paper's signal is of inputs, too")
    seen, other = random_samples(30, classes=2), random_samples(3, seed=1)
    signals, state = run(memory, seen)
    assert not signals[0].any()
    assert signals[-1].any()
    xi, after = memory(Sample(other.x[0], torch.eye(CLASSES, dtype=torch.float64)[3], other.z[0]), state, None)
    assert not xi.any()
    assert all(part.isfinite().all() for part in tree_leaves(after))


def test_many_models_at_once_are_one_after_the_other(memory):
    """Under vmap, from states that differ."""
    many = [random_samples(12, seed) for seed in range(3)]
    alone = [run(memory, samples) for samples in many]
    stacked = Sample(*(torch.stack(parts, 1) for parts in zip(*many, strict=True)))
    states = tree_map(lambda *parts: torch.stack(parts), *[start(memory, samples) for samples in many])
    together = torch.vmap(lambda sample, state: memory(sample, state, None))
    for index in range(12):
        xi, states = together(sample_at(stacked, index), states)
        torch.testing.assert_close(xi, torch.stack([signals[index] for signals, _ in alone]), **EXACT)


def test_a_memory_changes_nothing_that_it_is_given(memory):
    samples = random_samples(7)
    _, state = run(memory, samples)
    before = tree_map(torch.clone, state)
    memory(sample_at(samples, 0), state, None)
    assert all(torch.equal(old, new) for old, new in zip(tree_leaves(before), tree_leaves(state), strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RememberedModulator(0), "modulator.size is 0; expected a whole number of at least 2"),
        (lambda: RememberedModulator(1), "modulator.size is 1; expected a whole number of at least 2"),
        (
            lambda: RememberedModulator(5, "sharp"),
            "modulator.signal is 'sharp'; expected published or exact or parzen or",
        ),
        (lambda: RememberedModulator(5, sigma=0), "modulator.sigma is 0; expected a bandwidth from"),
        (lambda: RememberedModulator(5, sigmas=(1, 0, 1)), r"modulator.sigmas\[1\] is 0; expected a bandwidth"),
        (
            lambda: CovarianceModulator(horizon=0.5),
            "modulator.horizon is 0.5; expected a number of samples",
        ),
        (lambda: CovarianceModulator(weight=math.nan), "modulator.weight is nan; expected a finite number"),
        (lambda: DeltaModulator(learning_rate=0), "modulator.learning_rate is 0; expected a number above 0"),
        (lambda: DeltaModulator(learning_rate=2), "modulator.learning_rate is 2; expected .* below 2"),
        (lambda: DeltaModulator(horizon=0), "modulator.horizon is 0; expected a number of samples, at least 1"),
        (lambda: ClassMeansModulator(rate=0), "modulator.rate is 0; expected a number above 0, at most 1"),
        (lambda: ClassMeansModulator(temperature=-1), "modulator.temperature is -1; expected a number above 0"),
    ],
)
def test_a_memory_that_cannot_work_is_refused_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value)
