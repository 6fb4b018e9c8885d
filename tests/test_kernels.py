"""The CPU kernels against the published numbers and against the same learning written out in float64."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, layer_norm, one_hot

from projectlib.engines.cpu.kernels import compiler, vectors
from projectlib.engines.cpu.kernels import hsic as hsic_kernels
from projectlib.engines.cpu.kernels import mlp as kernels
from projectlib.engines.cpu.kernels import products as product_kernels

ADAMW = kernels.Optimizer(kernels.ADAMW, 1e-3, 0.9, 0.99, 1e-8, 1e-4)
SGD = kernels.Optimizer(kernels.SGD, 0.1, 0.0, 0.0, 0.0, 0.0)
RULES = {"frozen": kernels.FROZEN, "backprop": kernels.BACKPROP}  # the others are forms of BIOHSIC


def train(weights, biases, samples, labels, optimizer, form, gamma, sigmas, presentation, membranes=None, log=False):
    """Run the kernels on copies of float32 arrays; returns the member, its membranes (out, N) and the totals."""
    weights, biases = ([np.array(a, np.float32) for a in arrays] for arrays in (weights, biases))
    with_moments = [[(a, np.zeros_like(a), np.zeros_like(a)) for a in arrays] for arrays in (weights, biases)]
    member = tuple(kernels.Layer(*weight, *bias) for weight, bias in zip(*with_moments, strict=True))
    num, num_classes = presentation.window, len(biases[-1])
    work, totals = kernels.workspace(member, num, membranes), np.zeros(2 + 3 * len(weights))
    lags = hsic_kernels.lagged_kernel_values(samples, num, sigmas[0])
    modulation = hsic_kernels.scaled_modulation_weights(
        lags, labels, num_classes, num, presentation.stride, gamma, sigmas[1], form == "exact"
    )
    learning = kernels.Learning(
        RULES.get(form, kernels.BIOHSIC), hsic_kernels.WEIGHTED, 0.0, log, gamma, sigmas[1], sigmas[2]
    )
    last, optimizers = member[-1], (optimizer, optimizer)
    next_weights = [layer.weight for layer in (*member[1:], last)]
    feedback_paths = tuple(kernels.FeedbackPath(weight, last.weight, last.bias) for weight in next_weights)
    data = samples, labels, lags, modulation
    kernels.train_windows(member, feedback_paths, work, *data, presentation, learning, optimizers, 0, totals)
    return member, work.u, totals


@pytest.mark.parametrize(
    ("name", "optimizer", "form"),
    [
        ("biohsic_mlp", ADAMW, "published"),
        ("biohsic_mlp_sgd", SGD, "published"),
        ("bp_mlp", ADAMW, "backprop"),
        ("lif_xor_sgd", SGD, "published"),
    ],
)
def test_published_numbers(reference, name, optimizer, form):
    numbers = {key: value.numpy() for key, value in reference(name).items()}
    is_dynamic = "timesteps" in numbers
    num, steps = int(numbers["batch"]), len(numbers["losses"])
    cell = "LIFDenseCell_{}/i" if is_dynamic else "Dense_{}"

    def arrays(when, part):
        values = [numbers[f"{when}/{cell.format(layer)}/{part}"] for layer in range(3)]
        return [np.ascontiguousarray(value.T) for value in values]

    weights, biases = arrays("init", "kernel"), arrays("init", "bias")
    rate = float(numbers["time_step"] / numbers["time_constant"]) if is_dynamic else 1.0
    member, u, totals = train(
        weights,
        biases,
        numbers["x"][: steps + num - 1],
        numbers["labels"][: steps + num - 1],
        optimizer,
        form,
        float(numbers.get("gamma", 2.0)),
        tuple(map(float, numbers.get("sigmas", (0.5, 0.1, 1.0)))),
        kernels.Presentation(num, 1, int(numbers.get("timesteps", 1)), rate),
    )
    tolerance = {"rtol": 1e-4, "atol": 1e-6}
    expected_weights, expected_biases = arrays(f"after{steps}", "kernel"), arrays(f"after{steps}", "bias")
    for layer in range(3):
        np.testing.assert_allclose(member[layer].weight, expected_weights[layer], **tolerance)
        np.testing.assert_allclose(member[layer].bias, expected_biases[layer], **tolerance)
        if is_dynamic:
            np.testing.assert_allclose(u[layer].T, numbers[f"state{steps}/{layer}"], **tolerance)
    np.testing.assert_allclose(totals[0], numbers["losses"].sum(), **tolerance)


def gaussian(x, sigma):
    return torch.exp(-(x[:, None] - x[None]).square().sum(-1) / (2 * sigma**2 * x.shape[1]))


def bottleneck(kx, ky, z, gamma, sigma):
    """HSIC(X, Z) - gamma HSIC(Y, Z) and both parts, as traces."""
    num = len(z)
    centering = torch.eye(num) - 1 / num
    parts = [torch.trace(k @ centering @ gaussian(z, sigma) @ centering) / (num - 1) ** 2 for k in (kx, ky)]
    return torch.stack([parts[0] - gamma * parts[1], *parts])


def published_signal(kx, ky, z, gamma, sigma):
    num, d = z.shape
    q, kz = kx - gamma * ky, gaussian(z, sigma)
    c = q - q.mean(1)
    alpha = [2 * kz[-1, p] / (sigma**2 * d) * (z[-1] - z[p]) for p in range(num - 1)]
    return sum((c[p, p] + c[-1, -1]) * alpha[p] for p in range(num - 1)) / (num * (num - 1) ** 2)


def slow_train(weights, biases, x, labels, optimizer, form, gamma, sigmas, presentation, membranes):
    """The formulas of one network in float64, gradients by automatic differentiation, steps by torch.optim."""
    parameters = [torch.tensor(a, requires_grad=True) for pair in zip(weights, biases, strict=True) for a in pair]
    optimizer = optimizer(parameters)
    num, stride, num_timesteps, rate = presentation
    y = one_hot(labels, parameters[-1].shape[0]).double()
    state, totals = [torch.from_numpy(u) for u in membranes], 0
    for start in range(0, len(x) - num + 1, stride):
        window = slice(start, start + num)
        kx, ky = gaussian(x[window], sigmas[0]), gaussian(y[window], sigmas[1])
        for _ in range(num_timesteps):
            h, objective, outputs = x[window], 0, []
            for layer, old in enumerate(state):
                u = old + rate * (h @ parameters[2 * layer].T + parameters[2 * layer + 1] - old)
                state[layer] = u.detach()
                is_readout = layer == len(state) - 1
                outputs.append(z := u if is_readout else layer_norm(u.relu(), u.shape[1:], eps=1e-6))
                h = z if form == "backprop" else z.detach()  # no error crosses layers
                if is_readout or form in ("frozen", "backprop"):
                    continue
                if form == "exact":
                    newest = torch.cat([z[:-1].detach(), z[-1:]])
                    objective = objective + bottleneck(kx, ky, newest, gamma, sigmas[2])[0]
                else:
                    objective = objective + z[-1] @ published_signal(kx, ky, h, gamma, sigmas[2])
            loss = cross_entropy(outputs[-1], labels[window])
            optimizer.zero_grad()
            (loss + objective).backward()
            if form == "frozen":
                for parameter in parameters[:-2]:
                    parameter.grad = None
            optimizer.step()
            accuracy = (outputs[-1].argmax(1) == labels[window]).double().mean()
            hsic = [bottleneck(kx, ky, z, gamma, sigmas[2]) for z in outputs]
            totals = totals + torch.cat([torch.stack([loss, accuracy]), *hsic]).detach() / num_timesteps
    return parameters, state, totals


@pytest.fixture
def double():
    """Float64 as torch's default, for the slow computation."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


OPTIMIZERS = {
    kernels.SGD: lambda p: torch.optim.SGD(p, lr=1e-2, weight_decay=0.1),
    kernels.ADAM: lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    kernels.ADAMW: lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
}
PRESENTATIONS = {
    "mlp": kernels.Presentation(6, 1, 1, 1.0),
    "batches": kernels.Presentation(5, 5, 1, 1.0),
    "lif": kernels.Presentation(37, 1, 3, 0.2),
}


FORMS = ("published", "exact", "frozen", "backprop")


@pytest.mark.parametrize(
    ("model", "form", "kind"),
    [
        *((model, form, kernels.SGD) for model in PRESENTATIONS for form in FORMS),  # the gradient itself
        ("batches", "backprop", kernels.ADAM),
        ("lif", "exact", kernels.ADAM),
        ("mlp", "published", kernels.ADAMW),
        ("lif", "frozen", kernels.ADAMW),
    ],
)
def test_kernels_equal_the_formulas(double, model, form, kind):
    """Weights, membranes, loss, accuracy and every layer's HSIC."""
    presentation, sizes = PRESENTATIONS[model], (7, 9, 4, 3)
    random = np.random.default_rng(0)
    weights = [random.normal(size=(out, size)) / np.sqrt(size) for size, out in pairwise(sizes)]
    biases = [0.1 * random.normal(size=out) for out in sizes[1:]]
    membranes = [random.normal(size=(presentation.window, out)) for out in sizes[1:]]
    samples = random.normal(size=(presentation.window + 9, 7)).astype(np.float32)
    labels = random.integers(3, size=len(samples))
    learning = (form, 5.0, (0.7, 0.4, 0.8), presentation, membranes)
    optimizer = kernels.Optimizer(kind, 1e-2, 0.8, 0.95, 1e-3, 0.1)
    member, u, totals = train(weights, biases, samples, labels, optimizer, *learning, log=True)
    inputs = torch.from_numpy(samples.astype(float)), torch.from_numpy(labels)
    parameters, state, expected = slow_train(weights, biases, *inputs, OPTIMIZERS[kind], *learning)
    got = [a for layer in member for a in (layer.weight, layer.bias)]
    for array, parameter in zip(got, parameters, strict=True):
        np.testing.assert_allclose(array, parameter.detach(), rtol=1e-4, atol=2e-6)
    for array, expected_u in zip(u, state, strict=True):
        np.testing.assert_allclose(array.T, expected_u, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(totals, expected, rtol=1e-4, atol=1e-6)


def test_a_gradient_of_several_blocks_is_whole(double):
    """A layer of more weights than BLOCK, by rows that do not divide evenly."""
    sizes = (300, 130, 4, 3)
    random = np.random.default_rng(1)
    weights = [random.normal(size=(out, size)) / np.sqrt(size) for size, out in pairwise(sizes)]
    biases = [np.zeros(out) for out in sizes[1:]]
    samples, labels = random.normal(size=(7, 300)).astype(np.float32), random.integers(3, size=7)
    assert sizes[0] * sizes[1] > kernels.BLOCK
    for form in ("exact", "backprop"):
        learning = (form, 5.0, (0.7, 0.4, 0.8), PRESENTATIONS["mlp"])
        optimizer = kernels.Optimizer(kernels.SGD, 1e-2, 0.8, 0.95, 1e-3, 0.1)
        member, _, _ = train(weights, biases, samples, labels, optimizer, *learning)
        membranes = [np.zeros((6, out)) for out in sizes[1:]]
        inputs = torch.from_numpy(samples.astype(float)), torch.from_numpy(labels)
        parameters, _, _ = slow_train(weights, biases, *inputs, OPTIMIZERS[kernels.SGD], *learning, membranes)
        np.testing.assert_allclose(member[0].weight, parameters[0].detach(), rtol=1e-4, atol=1e-6)


def test_exp_is_numpys():
    x = np.concatenate([np.linspace(-87.2, 87, 4001), [0.0, -1e-7, -1e-30]]).astype(np.float32)
    got = np.array([vectors.exp(value) for value in x])
    exact = np.exp(x.astype(float))
    assert (abs(got - exact) <= (2e-7 + 2**-23 * abs(x)) * exact).all()  # an ulp of x, besides
    far = [np.float32(value) for value in (-87.4, -100, -1e4, -1e30, -np.inf)]
    assert [vectors.exp(value) for value in far] == [0] * 5
    for payload in (0x7FC00000, 0x7FC00001, 0x7FC000FF, 0xFFC12345):
        assert np.isnan(vectors.exp(np.uint32(payload).view(np.float32)))


@pytest.mark.parametrize("num", [1, 2, 3, 5, 6, 8, 13, 64, 67])
def test_hsic_over_pairs_is_the_trace(num):
    """Every pair once and no other, whether or not the window fills whole vectors."""
    random = np.random.default_rng(num)
    z = random.normal(size=(3, num)).astype(np.float32)
    kernel = np.exp(-random.random((num, num))).astype(np.float32)
    kernel = (kernel + kernel.T) / 2
    pairs, scratch = np.full((3, hsic_kernels.num_pairs(num)), np.nan, np.float32), np.zeros(num)
    around = np.zeros((5, hsic_kernels.num_places(num)), np.float32)
    for row, k in enumerate((kernel, kernel**2)):
        hsic_kernels.centered_pairs(k, scratch, pairs[row])
    got = hsic_kernels.hsic(pairs[0], pairs[1], z, 0.7, around, pairs[2])
    centering = np.eye(num) - 1 / num
    kz = np.exp(-np.square(z[:, :, None] - z[:, None]).sum(0) / (2 * 0.7**2 * 3))
    exact = [np.trace(k @ centering @ kz @ centering) / max(num - 1, 1) ** 2 for k in (kernel, kernel**2)]
    np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-6)
    assert np.count_nonzero(pairs[0]) == num * (num - 1) // 2


def test_a_kernel_is_compiled_anew_where_one_it_calls_has_changed(tmp_path):
    (tmp_path / "compiler.py").write_text(Path(compiler.__file__).read_text())
    (tmp_path / "caller.py").write_text(
        "from called_kernels import number\nfrom compiler import compiled\n\n"
        "@compiled\ndef call():\n    return number()\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    for number in (1, 1, 2):
        (tmp_path / "called_kernels.py").write_text(
            f"from compiler import compiled\n\n@compiled\ndef number():\n    return {number}\n"
        )
        command = [sys.executable, "-c", "import caller; print(caller.call())"]
        got = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
        assert int(got) == number
    assert numba.config.CACHE_LOCATOR_CLASSES == "", "a setting of the whole process"
    indices = [path.name for path in (tmp_path / "cache").rglob("caller.call-*.nbi")]
    assert len(indices) == 2  # the second process used the first one's


KERNEL = """from compiler import cached_signatures, compiled, entry

@compiled
def double(x):
    return 2 * x

@compiled
def treble(x):
    return 3 * x

@entry
@compiled
def six_times(x):
    return double(treble(x))
"""


def run_kernel(folder, code, **environment):
    """Standard output and error of ``code`` in a process that has ``kernels.double``."""
    (folder / "compiler.py").write_text(Path(compiler.__file__).read_text())
    (folder / "kernels.py").write_text(KERNEL)
    command = [sys.executable, "-c", f"from kernels import *; {code}"]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return ended.stdout.strip(), ended.stderr.strip()


def test_what_is_cached_is_known_without_compiling(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    print_cached = "print([len(types) for types in cached_signatures(double)], len(double.overloads))"
    assert run_kernel(tmp_path, print_cached, **cache) == ("[] 0", "")
    assert run_kernel(tmp_path, f"double(1.0), double(2); {print_cached}", **cache) == ("[1, 1] 2", "")
    assert run_kernel(tmp_path, print_cached, **cache) == ("[1, 1] 0", "")
    assert run_kernel(tmp_path, print_cached, **cache, NUMBA_CPU_NAME="generic") == ("[] 0", ""), "of another processor"


@pytest.mark.skipif(sys.platform != "linux", reason="needs os.fork")
def test_a_process_reads_the_cache_also_where_it_has_to_be_filled_first(tmp_path):
    """What a kernel calls is then the same code in the first process as in all others, and sums in the same order."""
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    run_twice = "print(six_times(2), six_times(2.0), six_times(3), len(double.overloads))"
    print_counts = "print(*(sum(counts.values()) for counts in six_times.stats[-2:]))"
    for _ in range(2):
        assert run_kernel(tmp_path, f"{run_twice}; {print_counts}", **cache) == ("12 12.0 18 0\n2 0", "")
    nowhere = {"XDG_CACHE_HOME": "/dev/null/cache", "NUMBA_CACHE_DIR": "/dev/null/cache"}
    (tmp_path / "__pycache__").touch()
    assert run_kernel(tmp_path, "print(six_times(2))", **nowhere)[0] == "12"


def test_kernels_compile_where_no_cache_can_be_written(tmp_path):
    """Neither beside the source, where a file is in the way, nor in the user's folder, nor where it was asked for."""
    (tmp_path / "__pycache__").touch()
    nowhere = {"XDG_CACHE_HOME": "/dev/null/cache", "NUMBA_CACHE_DIR": "/dev/null/cache"}
    output, log = run_kernel(tmp_path, "print(double(2), cached_signatures(double))", **nowhere)
    assert output == "4 []"
    assert log.count("\n") == 0
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in log


def test_hsic_keeps_its_digits_where_kernels_are_nearly_constant():
    """256 samples whose kernel is nearly one: centred in float32, a hundredth of HSIC(X, Z) was rounding."""
    random = np.random.default_rng(0)
    num, features = 256, 32
    x, z = random.normal(size=(num, 7)), random.normal(size=(features, num)).astype(np.float32)
    kernel = gaussian(torch.from_numpy(x), 5.0).numpy()
    pairs = np.zeros((2, hsic_kernels.num_pairs(num)), np.float32)
    hsic_kernels.centered_pairs(kernel.astype(np.float32), np.zeros(num), pairs[0])
    around = np.zeros((features, hsic_kernels.num_places(num)), np.float32)
    got, _ = hsic_kernels.hsic(pairs[0], pairs[0], z, 0.8, around, pairs[1])
    centering = np.eye(num) - 1 / num
    kz = gaussian(torch.from_numpy(z.T.astype(float)), 0.8).numpy()
    np.testing.assert_allclose(got, np.trace(kernel @ centering @ kz @ centering) / (num - 1) ** 2, rtol=3e-5)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 16)), np.zeros((4, 32), np.float32)[:, ::2]], ids=["float64", "strided"]
)
def test_vectors_are_of_contiguous_float32(array):
    with pytest.raises(numba.TypingError, match="vectors are of C-contiguous float32 arrays"):
        product_kernels.multiply_over_features(array, np.zeros((2, 16), np.float32), np.zeros((4, 2), np.float32))


def test_silent_moments_do_not_become_subnormal():
    """A thousand steps without a gradient leave them tiny, but not among the numbers that a CPU is slow at."""
    mean, square, zeros = (np.full(5, value, np.float32) for value in (-1e-25, 2e-30, 0))
    parameter = np.ones(5, np.float32)
    for update in range(1, 1001):
        kernels.descend(parameter, zeros, mean, square, ADAMW, kernels.step_sizes(ADAMW, update))
    for moment in (mean, square):
        assert ((moment > np.finfo(np.float32).tiny) & (moment < 1e-26)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_divergence_shows(bad):
    """One bad weight anywhere makes the loss of the next windows not finite, whatever fastmath may assume."""
    random = np.random.default_rng(2)
    samples, labels = random.normal(size=(15, 7)).astype(np.float32), random.integers(3, size=15)
    for layer, (out, size) in enumerate([(9, 7), (4, 9), (3, 4)]):
        weights = [random.normal(size=shape) for shape in [(9, 7), (4, 9), (3, 4)]]
        weights[layer][out - 1, size - 1] = bad
        biases = [np.zeros(n) for n in (9, 4, 3)]
        arguments = (samples, labels, ADAMW, "published", 2.0, (0.5, 0.1, 1.0), PRESENTATIONS["mlp"])
        member, _, totals = train(weights, biases, *arguments)
        assert not np.isfinite(totals[0])
        assert not all(np.isfinite(layer.weight).all() for layer in member)


def test_of_processes_that_need_the_same_kernel_one_compiles(monkeypatch, tmp_path):
    """Threads stand for processes: each opens the lock's file by itself."""
    cached, compiling = [], []
    kernel = SimpleNamespace(__name__="kernel", _cache=SimpleNamespace(cache_path=str(tmp_path / "cache")))

    def fork_and_compile(kernel, signature):
        compiling.append(signature)
        time.sleep(0.1)
        cached.append(signature)

    monkeypatch.setattr(compiler, "cached_signatures", lambda kernel: [*cached])
    monkeypatch.setattr(compiler, "fork_and_compile", fork_and_compile)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda signature: compiler.compile_in_child(kernel, signature), [("a",)] * 3))
    assert compiling == [("a",)]
