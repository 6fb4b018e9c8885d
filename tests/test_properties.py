"""Bad input, tried hard: whatever comes, training goes on with finite numbers or stops with one clear line."""

import csv
import math
import os
from pathlib import Path

import pytest
import torch
from conftest import scripts_in_this_process
from data_files import write_mnist
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.nn.functional import one_hot

from projectlib.config.plugins import TARGETS, build
from projectlib.config.validation import validate
from projectlib.data import Dataset, Sampler, Split, gather, prepare
from projectlib.engines import EagerEngine
from projectlib.ensemble import build_ensemble
from projectlib.errors import UserError
from projectlib.hsic import LARGEST, SMALLEST, hsic, hsic_bottleneck, kernel_matrix, modulation
from projectlib.models import cnn, lif_mlp, linear, mlp
from projectlib.rules import HSIC, Backprop, BioHSIC, Frozen
from projectlib.runs.checkpoint import load_checkpoint
from projectlib.runs.history import History
from projectlib.training.loop import check_finite, evaluate
from projectlib.training.metrics import HSICMonitor

FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
MANY = settings(FEW, max_examples=300)

EPSILON = torch.finfo(torch.float32).eps
bandwidths = st.one_of(st.sampled_from([SMALLEST, 1e-4, 0.1, 1.0, 1e4, LARGEST]), st.floats(0.01, 10))
counts = st.integers(2, 9)


numbers = st.floats(-3, 3, width=32)


def attempt(call, *arguments):
    """(result, None) of a call, or (None, its one line) where it is refused."""
    try:
        return call(*arguments), None
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    return None, message


@st.composite
def samples(draw, num=None, width=None):
    """(num, width) float32: random, constant, duplicated, huge or tiny."""
    num = draw(counts) if num is None else num
    width = draw(st.integers(1, 6)) if width is None else width
    kind = draw(st.sampled_from(["random", "constant", "duplicates", "huge", "tiny"]))
    rows = torch.tensor(draw(st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=num, max_size=num)))
    if kind == "constant":
        rows = rows[:1].expand(num, -1)
    if kind == "duplicates":
        rows = rows[torch.arange(num) // 2]
    return rows.contiguous() * {"huge": 1e10, "tiny": 1e-10}.get(kind, 1.0)


# HSIC


@MANY
@given(samples(), st.data(), bandwidths, bandwidths)
def test_hsic_is_finite_not_negative_and_agrees_with_float64(x, data, sigma_x, sigma_z):
    """Within 20 roundings: both kernels lie in [0, 1], so HSIC does in [0, 1]."""
    z = data.draw(samples(num=len(x)))
    value = hsic(kernel_matrix(x, sigma_x), kernel_matrix(z, sigma_z))
    kernels = [kernel_matrix(a.double(), sigma) for a, sigma in ((x, sigma_x), (z, sigma_z))]
    assert value.isfinite()
    assert value >= -20 * EPSILON
    single = [kernel_matrix(a, sigma).double() for a, sigma in ((x, sigma_x), (z, sigma_z))]
    assert abs(value.double() - hsic(*single)) <= 20 * EPSILON
    # a kernel's own error: relative in its exponent, which is at most 1/e after the exponential
    for own, exact in zip(single, kernels, strict=True):
        assert (own - exact).abs().max() <= 20 * EPSILON


@MANY
@given(samples(), bandwidths)
def test_kernels_are_symmetric_with_ones_on_the_diagonal(x, sigma):
    k = kernel_matrix(x, sigma)
    assert k.isfinite().all()
    assert torch.equal(k, k.T)
    assert (k.diagonal() == 1).all()
    assert ((k >= 0) & (k <= 1)).all()


@MANY
@given(st.data(), counts, st.integers(2, 4), st.floats(-100, 100), st.tuples(bandwidths, bandwidths, bandwidths))
def test_signals_and_objectives_are_finite(data, num, num_classes, gamma, sigmas):
    x, z = data.draw(samples(num=num)), data.draw(samples(num=num))
    labels = torch.tensor(data.draw(st.lists(st.integers(0, num_classes - 1), min_size=num, max_size=num)))
    y = one_hot(labels, num_classes).float()
    total, hsic_x, hsic_y = hsic_bottleneck(x, y, z, gamma, sigmas)
    assert total.isfinite()
    assert min(hsic_x, hsic_y) >= -20 * EPSILON
    kernels = [kernel_matrix(a, sigma) for a, sigma in zip((x, y, z), sigmas, strict=True)]
    for form in ("published", "exact"):
        xi = modulation(*kernels, z, gamma, sigmas[2], form)
        assert xi.shape == z.shape[1:]
        assert xi.isfinite().all()


def test_a_constant_layer_has_no_hsic_and_no_signal():
    x, z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.full((5, 4), 0.1)
    kx, kz = kernel_matrix(x, 0.5), kernel_matrix(z, 0.5)
    assert abs(hsic(kx, kz)) <= EPSILON
    for form in ("published", "exact"):
        assert torch.equal(modulation(kx, kx, kz, z, 2.0, 0.5, form), torch.zeros(4))


# Training


NETWORKS = {
    "mlp": lambda shape, generator: mlp(shape, 3, (4, 2), generator),
    "width 1": lambda shape, generator: mlp(shape, 3, (1,), generator),
    "linear": lambda shape, generator: linear(shape, 3, generator),
    "lif": lambda shape, generator: lif_mlp(shape, 3, (3,), 5e-3, 1e-3, 2, generator),
    "cnn": lambda shape, generator: cnn(shape, 3, (2,), generator),
}
shapes = st.one_of(
    st.tuples(st.integers(1, 5)), st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)), st.just((2, 3))
)


@FEW
@given(
    data=st.data(),
    shape=shapes,
    network=st.sampled_from([*NETWORKS]),
    rule=st.sampled_from([BioHSIC, HSIC, Frozen, Backprop]),
    size=st.integers(1, 9),
    num=st.integers(1, 12),
    one_class=st.booleans(),
    kind=st.sampled_from(["normal", "constant", "duplicates", "huge", "nan"]),
    sigmas=st.tuples(bandwidths, bandwidths, bandwidths),
    learning_rate=st.sampled_from([1e-4, 0.1, 1e3, 1e30]),
)
def test_training_goes_on_with_finite_numbers_or_stops_with_one_line(
    data, shape, network, rule, size, num, one_class, kind, sigmas, learning_rate
):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    inputs = torch.randn(num, *shape, generator=generator)
    if kind in ("constant", "duplicates"):
        inputs = inputs[torch.zeros(num, dtype=torch.int64) if kind == "constant" else torch.arange(num) // 2]
    inputs = inputs * {"huge": 1e30, "nan": math.nan}.get(kind, 1.0)
    labels = torch.zeros(num, dtype=torch.int64) if one_class else torch.arange(num) % 3
    split = Split(inputs.contiguous(), labels)
    rule = rule(2.0, sigmas) if rule in (BioHSIC, HSIC) else rule()
    if isinstance(rule, BioHSIC | HSIC):
        size = max(size, 2)  # as validation.validate asks

    def train():
        dataset = Dataset("made up", split, split, num_classes=3)
        ensemble = build_ensemble(lambda g: NETWORKS[network](shape, g), range(2))
        sampler = Sampler(num, size, rule.sliding, drop_last=network == "lif")
        optimizer = torch.optim.SGD([p for layer in ensemble.parameters for p in layer.values()], lr=learning_rate)
        engine = EagerEngine(ensemble, rule, optimizer, dataset, sampler, HSICMonitor(2.0, sigmas))
        engine.run(engine.draw_epoch(generator), 0, sampler.steps)
        scores = evaluate(ensemble, split, 4)
        check_finite({"train": engine.metrics(), "test": scores}, engine, 1, sampler.steps)
        return engine.metrics()

    metrics, refused = attempt(train)
    if refused:
        assert "expected" in refused
        return
    assert all(values.isfinite().all() for values in metrics.values())
    assert all(((metrics["accuracy"] >= 0) & (metrics["accuracy"] <= 1)).tolist())
    hsics = [values for name, values in metrics.items() if name.startswith(("hsicx", "hsicy"))]
    assert all((values >= -20 * EPSILON).all() for values in hsics)


# Data


def prepared(inputs, labels, limit, validation):
    train = Split(inputs, torch.tensor(labels, dtype=torch.int64))
    test = Split(torch.zeros(1, *inputs.shape[1:]), torch.zeros(1, dtype=torch.int64))
    return prepare(Dataset("made up", train, test, num_classes=3), limit, validation)


def spoilt(inputs, labels, place):
    """One thing at a time, and what is said of it.  place: of the number that is none."""
    poisons = [inputs.flatten().index_fill(0, torch.tensor(place), value) for value in (math.nan, math.inf, -math.inf)]
    changes = {
        "there are none": [{"inputs": inputs[:0], "labels": []}],
        "labels are of shape": [{"labels": labels[1:]}, {"labels": [*labels, 0]}],
        "labels go from": [{"labels": [*labels[1:], label]} for label in (-1, 3)],
        "values in 1 samples are NaN or infinite": [{"inputs": poison.view_as(inputs)} for poison in poisons],
        "data.limit is": [{"limit": limit} for limit in (-1, 0, len(labels) + 1, 1.0, math.nan, True, "1")],
        "data.validation is": [
            {"validation": share} for share in (-0.1, 1e-9, 0.99, 1, 1.0, math.nan, math.inf, True, False, None, "half")
        ],
    }
    return [(reason, change) for reason, of_reason in changes.items() for change in of_reason]


@FEW
@given(data=st.data(), shape=shapes, num=st.integers(1, 6))
def test_a_data_set_is_sound_or_refused_for_the_one_thing_that_is_wrong(data, shape, num):
    limit = data.draw(st.none() | st.integers(1, num))
    kept = limit or num
    held_out = data.draw(st.integers(0, kept - 1))
    validation = (held_out + data.draw(st.sampled_from([-0.4, 0, 0.4]))) / kept if held_out else 0
    inputs, labels = torch.zeros(num, *shape), data.draw(st.lists(st.integers(0, 2), min_size=num, max_size=num))
    sound = {"inputs": inputs, "labels": labels, "limit": limit, "validation": validation}
    dataset, refused = attempt(lambda: prepared(**sound))
    assert refused is None
    assert len(dataset.train.inputs) == len(dataset.train.labels) == kept - held_out
    assert (len(dataset.validation.labels) if dataset.validation else 0) == held_out
    for reason, change in spoilt(inputs, labels, place=data.draw(st.integers(0, inputs.numel() - 1))):
        _, refused = attempt(lambda change=change: prepared(**{**sound, **change}))
        assert refused is not None, change
        assert reason in refused


@MANY
@given(n=st.integers(1, 30), size=st.integers(1, 30), sliding=st.booleans(), drop_last=st.booleans())
def test_every_step_has_a_window_or_the_size_is_refused(n, size, sliding, drop_last):
    if size > n:
        with pytest.raises(UserError, match=r"data\.batchsize"):
            Sampler(n, size, sliding, drop_last)
        return
    sampler = Sampler(n, size, sliding, drop_last)
    source = Split(torch.arange(float(n))[:, None], torch.arange(n))
    epoch = sampler.epoch(torch.Generator().manual_seed(0))
    windows = [gather(source, sampler, epoch, step)[1].tolist() for step in range(sampler.steps)]
    assert all(1 <= len(window) <= size for window in windows)
    assert {*map(len, windows[:-1])} <= {size}
    seen = [sample for window in windows for sample in window]
    if sliding or not drop_last:
        assert {*seen} == {*range(n)}


# Configs


CONFIG = {
    "seed": 42,
    "nmodels": 2,
    "engine": "eager",
    "objective": "validation/accuracy",
    "training": {"nepochs": 1, "log_interval": 10, "log_hsic": False},
    "checkpointing": {"rate": 1, "minutes": None},
    "sweep": {"skip_finished": False},
    "data": {"batchsize": 6, "test_batchsize": 10, "seed": 42},
    "model": {"_target_": "projectlib.models.mlp"},
    "hsic": {},
    "rule": {"_target_": "projectlib.rules.BioHSIC"},
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "weight_decay": 0},
    "lr_schedule": {"_target_": "torch.optim.lr_scheduler.ConstantLR"},
    "logger": {"_target_": "projectlib.runs.loggers.PrintLogger"},
}
KEYS = [f"{group}.{key}" for group, keys in CONFIG.items() if isinstance(keys, dict) for key in keys if key[0] != "_"]
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True),
    st.text(max_size=5).filter(lambda text: "$" not in text),
    st.lists(st.one_of(st.integers(-1, 5), st.floats(allow_nan=True), st.text("ab", max_size=2)), max_size=4),
)
POSITIVE = ("nepochs", "log_interval", "rate", "batchsize", "test_batchsize", "nmodels", "lr")


@MANY
@given(key=st.sampled_from([*KEYS, "seed", "nmodels", "engine"]), value=anything)
@example(key="optimizer.lr", value=math.inf)
def test_a_config_is_sound_or_refused_by_name(key, value):
    config = OmegaConf.create({**CONFIG, "data": {**CONFIG["data"], "source": {"_target_": "projectlib.data.digits"}}})
    OmegaConf.update(config, key, value, merge=False)
    _, refused = attempt(validate, config)
    if refused:
        assert refused.startswith(f"{key} is {value!r}; expected ")
        return
    if key.split(".")[-1] in POSITIVE:
        assert 0 < value < math.inf


@MANY
@given(key=st.sampled_from(["gamma", "sigmas", "form"]), value=anything)
@example(key="sigmas", value=[1e-16, 1, 1])
def test_a_rule_is_made_of_sound_values_or_refused_by_name(key, value):
    rule, refused = attempt(lambda options: BioHSIC(**options), {key: value})
    if refused:
        assert refused.startswith(f"hsic.{key} is {value!r}; expected ")
        return
    assert math.isfinite(rule.gamma)
    assert len(rule.sigmas) == 3
    assert all(SMALLEST <= sigma <= LARGEST for sigma in rule.sigmas)
    assert rule.form in ("published", "exact", "parzen", "contrastive")


nested = st.recursive(
    st.one_of(st.text(max_size=3), st.none(), st.integers()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
)


@MANY
@given(outer=nested, name=st.sampled_from(["os.getcwd", "builtins.eval", "torch.hub.load", "pathlib.Path.touch"]))
def test_a_target_is_found_wherever_it_is_hidden(outer, name):
    def hide(node):
        if isinstance(node, dict) and node:
            key = next(iter(node))
            return {**node, key: hide(node[key])}
        if isinstance(node, list) and node:
            return [hide(node[0]), *node[1:]]
        return {"_target_": name}

    node = OmegaConf.create(
        {"_target_": "projectlib.rules.Frozen", "hidden": hide(outer)}, flags={"allow_objects": False}
    )
    assert name not in TARGETS
    with pytest.raises(UserError, match="a config may build"):
        build(node)


# Files


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bytes of a checkpoint and of metrics.csv."""
    folder = tmp_path_factory.mktemp("saved")
    with scripts_in_this_process(folder) as run:
        settings = ["data=xor", "nmodels=1", "data.batchsize=4", "data.limit=10", "training.nepochs=1", "engine=eager"]
        assert run("train-biohsic", *settings, f"hydra.run.dir={folder / 'run'}") == 0
    return (folder / "run/checkpoints/epoch-0001.pt").read_bytes(), (folder / "run/metrics.csv").read_bytes()


@FEW
@given(data=st.data(), how=st.sampled_from(["cut", "flip", "noise", "zeros"]))
def test_a_damaged_checkpoint_is_never_taken_for_a_whole_one(saved, tmp_path_factory, data, how):
    content, _ = saved
    place = data.draw(st.integers(0, len(content) - 1))
    if how == "cut":
        content = content[:place]
    elif how == "flip":
        content = content[:place] + bytes([content[place] ^ 1 << data.draw(st.integers(0, 7))]) + content[place + 1 :]
    elif how == "noise":
        content = data.draw(st.binary(max_size=200))
    else:
        content = content[:place] + bytes(len(content) - place)
    path = tmp_path_factory.mktemp("damaged") / "epoch-0001.pt"
    path.write_bytes(content)
    found, refused = attempt(load_checkpoint, path)
    if refused:
        return
    path.write_bytes(saved[0])  # the damage was where nothing is stored
    expected = load_checkpoint(path)
    torch.testing.assert_close(found["engine"], expected["engine"], rtol=0, atol=0)
    assert (found["history"], found["config"], found["epoch"]) == (
        expected["history"],
        expected["config"],
        expected["epoch"],
    )


@FEW
@given(data=st.data())
def test_damaged_metrics_are_read_or_refused(saved, tmp_path_factory, data):
    _, content = saved
    place, inserted = data.draw(st.integers(0, len(content))), data.draw(st.binary(max_size=5))
    path = tmp_path_factory.mktemp("damaged") / "metrics.csv"
    path.write_bytes(content[:place] + inserted + content[place + data.draw(st.integers(0, 30)) :])
    history, refused = attempt(History.read, path)
    if refused:
        return
    with open(path, newline="", encoding="utf-8") as file:  # what another reader makes of the same bytes
        lines = [{name: text for name, text in row.items() if text} for row in csv.DictReader(file)]
    assert len(history.rows) == len(lines)
    for row, line in zip(history.rows, lines, strict=True):
        assert row == {name: text if name == "split" else float(text) for name, text in line.items()}


names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\'\"$"), min_size=1, max_size=12
).filter(lambda name: name.strip(" .") == name)


@settings(FEW, max_examples=4)
@given(name=names)
@example(name="größe 数据 (1) = a,b")
def test_paths_of_any_name(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("paths")
    with scripts_in_this_process(folder) as run:
        settings = ["data=xor", "nmodels=1", "data.batchsize=4", "data.limit=10", "training.nepochs=1", "engine=eager"]
        assert run("train-biohsic", *settings, f"hydra.run.dir='{folder / name}'") == 0
    assert (folder / name / "metrics.csv").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_data_root_that_cannot_be_written_is_read(script, tmp_path):
    write_mnist(tmp_path / "data")
    for path in [*tmp_path.glob("data/**/*")][::-1]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    os.chmod(tmp_path / "data", 0o555)
    before = sorted(Path(tmp_path / "data").glob("**/*"))
    settings = ["data=mnist", f"data.root={tmp_path / 'data'}", "nmodels=1", "training.nepochs=1", "engine=eager"]
    ended = script("train-biohsic", *settings)
    assert ended.code == 0, ended.output
    assert sorted(Path(tmp_path / "data").glob("**/*")) == before
