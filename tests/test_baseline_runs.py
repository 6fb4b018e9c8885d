"""Baselines as they are run: kernels and captured steps against eager, command lines, and what is refused."""

import json

import pytest
import torch
from made_up_engines import EXACT as EXACTLY
from made_up_engines import FLOAT32, MODELS, OPTIMIZERS, SIGMAS, assert_same, train
from test_learning import final_accuracy
from test_resume import compare_with_uninterrupted
from tiny_runs import metrics

from projectlib.data import Dataset, Sampler, Split
from projectlib.engines.cpu.cnn_classifier import ConvolutionClassifierEngine
from projectlib.engines.cpu.mlp import CpuEngine
from projectlib.engines.cuda_graph import GraphEngine
from projectlib.engines.eager import EagerEngine
from projectlib.ensemble import build_ensemble
from projectlib.hsic import SMALLEST
from projectlib.models import cnn
from projectlib.rules import (
    HSIC,
    PHSIC,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    Frozen,
    LocalClassifier,
    SimilarityMatching,
)
from projectlib.training.metrics import HSICMonitor

# Compiled --------------------------------------------------------------------------------------------------------

COMPILED = {
    "feedback-alignment": lambda num: FeedbackAlignment(1.7, num),
    "direct-feedback-alignment": lambda num: DirectFeedbackAlignment(0.8, num),
    "local-classifier": lambda num: LocalClassifier(0.9, accumulate=num),
    "local-classifier-random": lambda num: LocalClassifier(0.9, "random", accumulate=num),
    "similarity-matching": SimilarityMatching,
    "phsic": lambda num: PHSIC(groups=None, accumulate=num),
    "hsic": lambda num: HSIC(2.0, SIGMAS, num),
    "backprop": Backprop,
    "frozen": Frozen,
}
RATES = 1e-3, 3e-3  # of hidden layers, and of the readout


def make_engine(engine_class, rule, model="mlp", optimizer="adamw"):
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(23, 7, generator=generator), torch.randint(3, (23,), generator=generator))
    ensemble = build_ensemble(MODELS[model], (0, 1))
    sampler = Sampler(23, rule.window or 6, rule.sliding, drop_last=model == "lif")
    *hidden, readout = ensemble.parameters
    groups = [{"params": [p for layer in hidden for p in layer.values()]}] if hidden and rule.trains_hidden else []
    groups += [{"params": [*readout.values()], "lr": RATES[1]}]
    return engine_class(
        ensemble, rule, OPTIMIZERS[optimizer](groups), Dataset("made up", split, split, 3), sampler, None
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("num", [1, 4])
@pytest.mark.parametrize("name", COMPILED)
def test_kernels_equal_eager(name, num, optimizer):
    """Weights, moments, classifiers and metrics; 4 leaves a last batch of 3, and the readout has a rate of its own.

    Eight updates at most: single samples of small layers soon amplify what rounding leaves between the two.
    """
    compiled, eager = (make_engine(c, COMPILED[name](num), optimizer=optimizer) for c in (CpuEngine, EagerEngine))
    steps = min(compiled.sampler.steps, 8)
    assert_same(train(compiled, (0, steps)), train(eager, (0, steps)), **FLOAT32)


@pytest.mark.parametrize("model", ["deep", "linear", "lif"])
@pytest.mark.parametrize("name", COMPILED)
def test_kernels_of_other_networks_equal_eager(name, model):
    compiled, eager = (make_engine(c, COMPILED[name](4), model, "sgd") for c in (CpuEngine, EagerEngine))
    steps = compiled.sampler.steps
    assert_same(train(compiled, (0, steps)), train(eager, (0, steps)), **FLOAT32)


COMPARISONS = {
    **{name: COMPILED[name] for name in ("similarity-matching", "phsic", "hsic")},
    "hsic of small sigmas": lambda num: HSIC(2.0, (0.5, 0.3, 1e-3), num),
    "hsic of the smallest": lambda num: HSIC(2.0, (0.5, 0.3, SMALLEST), num),
    "groups": lambda num: PHSIC(gamma=1.6, groups=12, power=0.8, smoothing=0.3, accumulate=num),
}


@pytest.mark.parametrize("num_copies", [1, 4])
@pytest.mark.parametrize("name", COMPARISONS)
def test_kernels_of_wide_layers_equal_eager(name, num_copies):
    """Batches of 11, some samples of which may be copies, and a last one of 1, which is compared with nothing."""
    engines = [make_engine(engine, COMPARISONS[name](11), "wide", "sgd") for engine in (CpuEngine, EagerEngine)]
    for engine in engines:
        inputs = engine.source.inputs
        engine.optimizer.param_groups[0]["lr"] = 1.0  # or these gradients would move nothing
        inputs[:] = inputs[torch.arange(len(inputs)) // num_copies * num_copies]
        assert engine.sampler.steps == 3
    compiled, eager = (train(engine, (0, 3)) for engine in engines)
    assert_same(compiled, eager, **FLOAT32)


@pytest.mark.parametrize("name", COMPILED)
def test_engines_go_on_from_each_other(name):
    whole = train(make_engine(EagerEngine, COMPILED[name](4)), (0, 6))
    cut = train(make_engine(CpuEngine, COMPILED[name](4)), (0, 1), (1, 6))
    assert_same(cut, train(make_engine(CpuEngine, COMPILED[name](4)), (0, 6)), **EXACTLY)
    first, second = (make_engine(c, COMPILED[name](4)) for c in (EagerEngine, CpuEngine))
    train(first, (0, 3))
    second.load_state_dict(first.state_dict())
    second.compile()
    second.run(second.draw_epoch(torch.Generator().manual_seed(1)), 3, 6)
    assert_same((second.state_dict(), second.metrics()), whole, **FLOAT32)


TRACED = {name: make_rule for name, make_rule in COMPILED.items() if name not in ("backprop", "frozen")}


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", TRACED)
def test_a_captured_step_equals_eager(name):
    """torch.compile takes the step without a break; fullgraph raises where it could not."""
    torch.compiler.reset()

    def captured(*arguments):
        return GraphEngine(*arguments, capture=lambda function: function, backend="aot_eager")

    graph, eager = (make_engine(c, TRACED[name](4)) for c in (captured, EagerEngine))
    assert_same(train(graph, (0, 6)), train(eager, (0, 6)), **FLOAT32)


@pytest.mark.parametrize(("feedback", "grid"), [("transpose", None), ("random", None), ("transpose", 3)])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_classifiers_of_convolutions_equal_eager(size, feedback, grid):
    """Odd sizes have places that no classifier reads, unless it reads blocks; 11 images leave a last block of 3."""

    def engine(engine_class):
        generator = torch.Generator().manual_seed(0)
        split = Split(torch.randn(11, 3, *size, generator=generator), torch.randint(3, (11,), generator=generator))
        ensemble = build_ensemble(lambda generator: cnn((3, *size), 3, (4, 6), generator), (0, 1))
        rule = LocalClassifier(0.5, feedback, grid, accumulate=4)
        optimizer = OPTIMIZERS["sgd"]([p for layer in ensemble.parameters for p in layer.values()])
        dataset, monitor = Dataset("made up", split, split, 3), HSICMonitor(2.0, (0.5, 0.3, 1.0))
        return engine_class(ensemble, rule, optimizer, dataset, Sampler(11, 4, False), monitor)

    assert ConvolutionClassifierEngine.supports(engine(EagerEngine).ensemble.network, LocalClassifier())
    compiled, eager = (train(engine(c), (0, 3)) for c in (ConvolutionClassifierEngine, EagerEngine))
    assert_same(compiled, eager, **FLOAT32)


# Runs ------------------------------------------------------------------------------------------------------------

NAMES = ("direct-feedback-alignment", "feedback-alignment", "local-classifier", "phsic", "similarity-matching")
TINY = ("data=digits", "nmodels=2", "data.limit=120", "training.nepochs=2")


@pytest.mark.parametrize("name", NAMES)
def test_convolutions_and_averages(script, tmp_path, name):
    settings = (*TINY, "model=cnn", "model.features=[6,9]", f"rule={name}", "optimizer=adamw-averaged")
    more = ("rule.groups=3",) if name == "phsic" else ()
    ended = script("train-biohsic", *settings, *more, "hydra.run.dir=run")
    assert ended.code == 0, ended.output
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("name", NAMES)
def test_leaky_integrators(script, name):
    settings = ("data=xor", "nmodels=2", "data.limit=100", "training.nepochs=1", "training.sample_timesteps=3")
    ended = script("train-lif-biohsic", *settings, f"rule={name}", "engine=compiled", "hydra.run.dir=run")
    assert ended.code == 0, ended.output


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*((n, "adamw") for n in (*NAMES, "hsic")), ("local-classifier", "adamw-averaged"), ("phsic", "adamw-averaged")],
)
def test_a_run_that_was_stopped_inside_an_epoch_ends_alike(script, tmp_path, name, optimizer):
    compares = name in ("phsic", "similarity-matching", "hsic")
    num, num_steps = (960, 40) if optimizer == "adamw-averaged" else (120, 25) if compares else (30, 40)
    settings = ("data=digits", f"data.limit={num}", f"rule={name}", f"optimizer={optimizer}", "nmodels=2")
    arguments = ("train-biohsic", *settings, "training.nepochs=3", "engine=compiled")
    compare_with_uninterrupted(script, tmp_path, *arguments, num_steps=num_steps)


@pytest.mark.parametrize("name", [*NAMES, "local-classifier rule.feedback=random"])
def test_digits_are_learnt_better_than_by_frozen_layers(script, tmp_path, name):
    """Frozen layers reach 0.877 in as many updates of as many samples."""
    settings = ["data=digits", "nmodels=2", "optimizer=adamw-averaged", "training.nepochs=15", *f"rule={name}".split()]
    assert final_accuracy(script, tmp_path / "run", "train-biohsic", *settings) > 0.93


def losses(folder):
    return [row["loss"] for row in metrics(folder)]


def test_averages_of_back_propagation_are_its_batches(script, tmp_path):
    """One sample at a time, batches, and the mean of as many samples: one rule."""
    for name, settings in {
        "batches": ["data.batchsize=32"],
        "averages": ["optimizer=adamw-averaged"],
        "single": ["data.batchsize=1"],
    }.items():
        ended = script("train-bp", *TINY, "engine=eager", *settings, f"hydra.run.dir={name}")
        assert ended.code == 0, ended.output
    assert losses(tmp_path / "batches") == losses(tmp_path / "averages")
    assert losses(tmp_path / "batches") != losses(tmp_path / "single")


def test_plausible_hsic_of_divided_groups(script):
    settings = ("model=divisive-mlp", "rule=phsic", "rule.groups=16", "optimizer=adamw-averaged")
    ended = script("train-biohsic", *TINY, *settings, "hydra.run.dir=run")
    assert ended.code == 0, ended.output


def test_a_window_of_two_and_frozen_layers_with_averages(script):
    for name, settings in (("two", ["data.batchsize=2"]), ("frozen", ["rule=frozen", "optimizer=adamw-averaged"])):
        ended = script("train-biohsic", *TINY, *settings, f"hydra.run.dir={name}")
        assert ended.code == 0, ended.output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["rule=local-classifier", "data.batchsize=8"],
            "data.batchsize=8 has no effect with rule=local-classifier, which sees one sample at a time",
        ),
        (["rule=feedback-alignment", "hsic.gamma=3"], "hsic.gamma=3 has no effect with rule=feedback-alignment"),
        (
            ["rule=phsic", "optimizer=adamw-averaged", "data.batchsize=8"],
            "data.batchsize=8 has no effect with optimizer.accumulate=32; leave one out",
        ),
        (["rule=feedback-alignment", "readout.window=6"], "readout.window is 6, which is for a stream of samples"),
        (["rule=similarity-matching", "data.batchsize=1"], "data.batchsize is 1; expected at least 2"),
        (["rule=local-classifier", "modulator=delta"], "which has no effect on the rule LocalClassifier"),
        (["rule=phsic", "model.features=[60]"], "rule.groups is 32, but layer 0 has 60 neurons or channels"),
        (["rule=phsic", "optimizer.accumulate=5000"], "optimizer.accumulate is 5000; expected at most the"),
        (["rule=phsic", "model=divisive-mlp", "engine=compiled"], "it does not cover such a network of DivisiveLayer"),
    ],
)
def test_what_a_baseline_cannot_do_is_one_line(script, settings, message):
    ended = script("train-biohsic", "data=digits", "nmodels=1", *settings)
    assert ended.code == 1
    assert message in ended.error
