"""The captured step, with captures that replay by calling: it does eager's steps, and one that does not is not used."""

import logging
from copy import deepcopy

import pytest
import torch
from made_up_engines import (
    EXACT,
    FLOAT32,
    OPTIMIZERS,
    RULES,
    assert_same,
    make_engine,
    make_image_engine,
    train,
)

from projectlib.engines import choice
from projectlib.engines.cuda_graph import GraphEngine, departure
from projectlib.engines.eager import EagerEngine
from projectlib.errors import UserError
from projectlib.modulators import RememberedModulator
from projectlib.rules import BioHSIC


def replay_by_calling(function):
    """A capture where there is no GPU: the runs before it leave their trace, as there."""
    for _ in range(3):
        function()
    return function


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    ("model", "rule", "optimizer"),
    [("mlp", "published", "adamw"), ("mlp", "published", "sgd"), ("mlp", "backprop", "adamw"), ("lif", "exact", "sgd")],
)
def test_graph_engine_replays_eager(model, rule, optimizer):
    """The captured step with a capture that replays by calling: counters, fixed tensors, the last smaller batch."""
    eager = make_engine(EagerEngine, model, rule, optimizer)
    calls = []

    def capture(function):
        replay = replay_by_calling(function)
        return lambda: (calls.append(function), replay())

    graph = make_engine(GraphEngine, model, rule, optimizer, capture=capture, backend=None)
    steps = eager.sampler.steps
    ranges = [(0, 5), (5, 20), (20, steps)] if steps > 20 else [(0, 5), (5, steps)]
    trained = train(graph, *ranges)
    assert_same(trained, train(eager, *ranges), **EXACT)
    assert len(calls) > 2  # more than the proof takes
    assert graph.name == "compiled"


@pytest.mark.usefixtures("few_steps")
def test_graph_engine_is_captured_on_an_epoch_of_one_step():
    graph = make_engine(GraphEngine, window=31, capture=replay_by_calling, backend=None)
    assert_same(train(graph, (0, 1)), train(make_engine(EagerEngine, window=31), (0, 1)), **EXACT)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("make", [make_engine, make_image_engine], ids=["mlp", "augmented cnn"])
def test_steps_trace_into_one_graph(make):
    """torch.compile takes a window and its time step without a break; fullgraph raises where it could not."""
    torch.compiler.reset()  # what other tests have compiled counts against the few recompilations that it allows
    graph = make(GraphEngine, capture=lambda function: function, backend="aot_eager")
    assert_same(train(graph, (0, 26)), train(make(EagerEngine), (0, 26)), **FLOAT32)


@pytest.mark.usefixtures("few_steps")
def test_a_schedule_of_more_than_the_rate_is_refused():
    graph = make_engine(GraphEngine, capture=replay_by_calling, backend=None)
    train(graph, (0, 2))
    graph.optimizer.param_groups[0]["betas"] = (0.5, 0.9)  # as OneCycleLR does
    with pytest.raises(UserError, match="changes more of the optimizer than its learning rate"):
        graph.run(graph.epoch, 2, 4)
    graph.required = False
    graph.run(graph.epoch, 2, 4)
    assert graph.name == "eager"


@pytest.mark.usefixtures("few_steps")
def test_a_schedule_that_makes_a_new_tensor_of_the_rate_is_refused():
    graph = make_engine(GraphEngine, capture=replay_by_calling, backend=None)
    (group,) = graph.optimizer.param_groups
    group["lr"] = torch.tensor(group["lr"])  # as on a GPU, where a graph reads it
    train(graph, (0, 2))
    group["lr"].mul_(0.5)
    graph.run(graph.epoch, 2, 4)
    group["lr"] = group["lr"] * 0.5
    with pytest.raises(UserError, match="changes more of the optimizer than its learning rate"):
        graph.run(graph.epoch, 4, 6)


def refuse(engine):
    def capture(function):
        replay_by_calling(function)
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    return capture


def fail_at_the_end(engine):
    """As torch does when it leaves a capture within which something failed."""

    def capture(function):
        try:
            raise ValueError("a number was read on the host")
        finally:
            raise RuntimeError("failed due to a previous error during capture")

    return capture


def leave_out_every_second_replay(engine):
    replays = []

    def capture(function):
        def replay():
            replays.append(function)
            if len(replays) % 2:
                function()
            else:
                engine.position.add_(1).remainder_(engine.whole_steps.steps)

        return replay

    return capture


def learn_nothing(engine):
    def capture(function):
        def replay():
            rates = [group["lr"] for group in engine.optimizer.param_groups]
            for group in engine.optimizer.param_groups:
                group["lr"] = 0.0
            function()
            for group, rate in zip(engine.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

        return replay

    return capture


def change_after_replay(change):
    return lambda engine: lambda function: lambda: (function(), change(engine))


# of an engine, a capture that goes wrong, and what the reason says of it
FAILING = {
    "refuses": (refuse, "RuntimeError: operation not permitted when stream is capturing"),
    "does nothing": (lambda engine: lambda function: lambda: None, "eager's"),
    "leaves out one step of many": (leave_out_every_second_replay, "eager's"),
    "learns nothing": (learn_nothing, "parameters"),
    "one bias": (
        change_after_replay(lambda e: e.ensemble.parameters[1]["affine.bias"][0, 2].add_(1e-3)),
        "affine.bias",
    ),
    "not a number": (
        change_after_replay(lambda e: e.ensemble.parameters[2]["affine.weight"][1].fill_(torch.nan)),
        "eager's",
    ),
    "a moment": (change_after_replay(lambda e: next(iter(e.optimizer.state.values()))["exp_avg"].mul_(1.1)), "exp_avg"),
    "a count": (change_after_replay(lambda e: [*e.optimizer.state.values()][3]["step"].add_(1)), "step"),
    "metrics": (change_after_replay(lambda e: e.totals[:, 1].mul_(1.1)), "totals"),
    "state": (change_after_replay(lambda e: e.state.layers[0].mul_(1.1)), "eager's"),
    "the next step": (change_after_replay(lambda e: e.position.sub_(1).clamp_(min=0)), "eager's"),
    "fails within": (fail_at_the_end, "ValueError: a number was read on the host; then RuntimeError: failed due to"),
}


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("case", FAILING)
def test_a_graph_that_does_not_do_eagers_steps_is_not_used(case, caplog):
    make_capture, reason = FAILING[case]
    model = "lif" if case == "state" else "mlp"

    def make(**options):
        engine = make_engine(GraphEngine, model, backend=None, **options)
        engine.capture = make_capture(engine)
        return engine

    with pytest.raises(UserError, match=r"^engine is 'compiled', but .*; use engine=auto or engine=eager$") as error:
        make().compile()
    assert reason in str(error.value)
    engine = make(required=False)
    with caplog.at_level(logging.WARNING):
        trained = train(engine, (0, 2), (2, 7))
    (record,) = caplog.records
    assert record.message.startswith("engine eager: ")
    assert reason in record.message
    assert "\n" not in record.message
    assert engine.name == "eager"
    assert_same(trained, train(make_engine(EagerEngine, model), (0, 7)), **EXACT)


def test_a_graph_is_compared_when_its_memory_is_full(monkeypatch):
    """Before, there is no signal: hidden layers would stay as they are, in eager and in any graph."""
    monkeypatch.setitem(RULES, "remembered", BioHSIC(modulator=RememberedModulator(40)))
    engine = make_engine(GraphEngine, rule="remembered", log_hsic=False, window=1, backend=None)
    assert engine.steps_before_comparison() == 40
    before = engine.ensemble.parameters[0]["affine.bias"].clone()
    engine.take_eager_steps(0, 39)  # of epochs of 31
    assert engine.position == 8
    engine.capture = replay_by_calling
    engine.compile()
    assert engine.name == "compiled"
    torch.testing.assert_close(engine.ensemble.parameters[0]["affine.bias"], before, **EXACT)  # without weight decay
    engine.take_eager_steps(39, 2)
    assert not torch.equal(engine.ensemble.parameters[0]["affine.bias"], before)


def test_other_rounding_of_early_updates_is_not_taken_for_other_steps(monkeypatch):
    """Adam's first updates are as large for a gradient that is all rounding: back-propagation then amplifies them."""
    monkeypatch.setitem(OPTIMIZERS, "default eps", lambda p: torch.optim.AdamW(p, 1e-2, (0.9, 0.99), fused=True))
    engine = make_image_engine(GraphEngine, "backprop", "default eps", augmented=False, backend=None)
    advance = engine.advance
    engine.fused.advance = lambda x, y, context: advance(x.flip(0), y.flip(0), context)  # sums over the batch backward
    engine.capture = replay_by_calling
    engine.compile()
    assert engine.name == "compiled"


def test_what_departs_from_eager():
    before, expected = torch.zeros(2000), torch.linspace(-1, 1, 2000)
    assert departure(expected + 1e-4, expected, before) < 0.1
    flipped = expected.clone()
    flipped[7] = 1000.0
    assert departure(flipped, expected, before) > 1, "one number of 2000"
    assert departure(flipped, expected, before, flips=1e-3) == 0, "that of a neuron that fires or does not"
    assert departure(flipped + 0.1, expected, before, flips=1e-3) > 1
    flipped[7] = torch.nan
    assert departure(flipped, expected, before) == torch.inf
    assert departure(flipped, flipped, before) == 0, "a model that diverges in both"
    wrong = flipped.clone()
    wrong[8:] += 0.1
    assert departure(wrong, flipped, before) > 1, "and hides no other"


SHARES = {
    "a neuron that fires or does not": (lambda engine: engine.state.layers[0].v.view(-1)[7:8], True),
    "all neurons": (lambda engine: engine.state.layers[0].trace, False),
    "a weight": (lambda engine: engine.ensemble.parameters[0]["affine.weight"].view(-1)[7:8], False),
}


@pytest.mark.parametrize("share", SHARES)
def test_a_neuron_that_fires_or_does_not_is_not_taken_for_another_step(share):
    """One of the 1,080 numbers of a state may depart from eager's, where its potential is at the threshold."""
    choose, is_taken = SHARES[share]
    engine = make_engine(GraphEngine, "spiking", backend=None, required=False)
    replays = []

    def capture(function):
        return lambda: (function(), replays.append(function), len(replays) == 2 and choose(engine).add_(3.0))

    engine.capture = capture
    engine.compile()
    assert len(replays) == 2
    assert (engine.name == "compiled") == is_taken


def test_one_step_left_out_of_all_is_noticed():
    engine = make_engine(GraphEngine, backend=None)
    engine.capture = leave_out_every_second_replay(engine)
    with pytest.raises(UserError, match="after 17 steps"):
        engine.compile()


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("model", ["mlp", "lif"])
@pytest.mark.parametrize("case", ["correct", *list(FAILING)[:3]])
def test_proving_a_graph_leaves_no_trace(case, model):
    """In the middle of an epoch: weights, moments and counts, states, totals and the generators are as before."""
    begun = make_engine(EagerEngine, model)
    train(begun, (0, 4))
    engine = make_engine(GraphEngine, model, required=False, backend=None)
    engine.load_state_dict(deepcopy(begun.state_dict()))
    engine.position.fill_(4)
    engine.capture = replay_by_calling if case == "correct" else FAILING[case][0](engine)
    before, random = deepcopy(engine.state_dict()), torch.get_rng_state()
    engine.compile()
    assert (engine.name == "compiled") == (case == "correct")
    torch.testing.assert_close(engine.state_dict(), before, **EXACT)
    torch.testing.assert_close(torch.get_rng_state(), random, **EXACT)
    assert engine.position == 4
    epoch = engine.draw_epoch(torch.Generator().manual_seed(1))
    engine.run(epoch, 4, 10)
    whole = train(make_engine(EagerEngine, model), (0, 10))
    assert_same((engine.state_dict(), engine.metrics()), whole, **EXACT)


@pytest.mark.usefixtures("few_steps")
def test_a_run_whose_graph_fails_goes_on_in_eager_and_says_so_once(script, tmp_path, monkeypatch):
    """Here, where CUDA is not there to capture."""

    def no_stream():
        raise RuntimeError("no CUDA here")

    monkeypatch.setattr(torch.cuda, "Stream", no_stream)
    monkeypatch.setattr(choice, "device_type", lambda ensemble: "cuda")
    monkeypatch.setattr(GraphEngine, "worth_compiling", 0)
    tiny = ["data=xor", "nmodels=1", "data.batchsize=4", "data.limit=10", "training.nepochs=1", "hydra.run.dir=run"]
    ended = script("train-biohsic", *tiny)
    assert ended.code == 0
    assert ended.output.count("[WARNING]") == ended.output.count("engine eager: the captured graph fails") == 1
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "epoch-0001.pt", weights_only=True)
    assert checkpoint["engine_name"] == "eager"
    assert script("train-biohsic", "resume=run", "training.nepochs=2").code == 0
    ended = script("train-biohsic", *tiny[:-1], "engine=compiled")
    assert ended.code == 1
    assert "the captured graph fails on this device (" in ended.error
