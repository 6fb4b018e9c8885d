"""Every engine does eager's steps: the same weights, moments, states and metrics."""

import logging
from copy import deepcopy

import pytest
import torch

from projectlib.data import Augmentation, Dataset, Sampler, Split
from projectlib.engines import choice
from projectlib.engines.choice import choose_engine
from projectlib.engines.cpu.cnn import ConvolutionEngine
from projectlib.engines.cpu.mlp import CpuEngine
from projectlib.engines.cuda_graph import GraphEngine
from projectlib.engines.eager import EagerEngine, copy_tree_
from projectlib.ensemble import build_ensemble
from projectlib.errors import UserError
from projectlib.models import LeakyIntegrator, Network, cnn, lif_mlp, linear, mlp
from projectlib.models.mlp import Readout
from projectlib.modulators import RememberedModulator, ReservoirModulator
from projectlib.rules import HSIC, Backprop, BioHSIC, Frozen
from projectlib.training.metrics import HSICMonitor

SIGMAS = (0.5, 0.3, 1.0)
RULES = {
    "published": BioHSIC(2.0, SIGMAS),
    "exact": BioHSIC(2.0, SIGMAS, form="exact"),
    "parzen": BioHSIC(2.0, SIGMAS, form="parzen"),
    "contrastive": BioHSIC(2.0, SIGMAS, form="contrastive"),
    "frozen": Frozen(),
    "backprop": Backprop(),
}
MODELS = {
    "mlp": lambda generator: mlp((7,), 3, (9, 5), generator),
    "deep": lambda generator: mlp((7,), 3, (6, 5, 4), generator),
    "linear": lambda generator: linear((7,), 3, generator),
    "lif": lambda generator: lif_mlp((7,), 3, (6, 4), 5e-3, 1e-3, 3, generator),
}
CNN = lambda generator: cnn((1, 8, 8), 3, (4,), generator)  # noqa: E731
MEMORY = ReservoirModulator(20, 1.2, 0.5, 5e-3, 1e-3, learning_rate=0.01, seed=0)
OPTIMIZERS = {
    # eps is large enough that a gradient of rounding alone does not become a step of its own
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.9, 0.99), eps=1e-5, weight_decay=1e-2, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, eps=1e-5, weight_decay=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, weight_decay=1e-2, fused=True),
}


def make_engine(
    engine_class, model="mlp", rule="published", optimizer="adamw", num_models=2, log_hsic=True, window=6, **options
):
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(31, 7, generator=generator), torch.randint(3, (31,), generator=generator)
    split = Split(inputs, labels)
    rule, make = RULES[rule], MODELS[model]
    ensemble = build_ensemble(make, range(num_models))
    sampler = Sampler(31, window, rule.sliding, drop_last=model == "lif")
    trained = ensemble.parameters if rule.trains_hidden else ensemble.parameters[-1:]
    optimizer = OPTIMIZERS[optimizer]([p for layer in trained for p in layer.values()])
    monitor = HSICMonitor(2.0, SIGMAS) if log_hsic else None
    return engine_class(ensemble, rule, optimizer, Dataset("made up", split, split, 3), sampler, monitor, **options)


def train(engine, *ranges):
    """Steps of one epoch, cut into ranges; returns all that can differ."""
    engine.compile()
    epoch = engine.draw_epoch(torch.Generator().manual_seed(1))
    engine.begin_epoch()
    for start, stop in ranges:
        engine.run(epoch, start, stop)
    return engine.state_dict(), engine.metrics()


def assert_same(engine, reference, **tolerance):
    (state, metrics), (expected, expected_metrics) = engine, reference
    for key in ("parameters", "state"):
        torch.testing.assert_close(state[key], expected[key], **tolerance)
    moments, expected_moments = state["optimizer"]["state"], expected["optimizer"]["state"]
    if expected_moments or tolerance == EXACT:
        torch.testing.assert_close(moments, expected_moments, **tolerance)
    torch.testing.assert_close(metrics, expected_metrics, **tolerance)
    assert state["steps_in_epoch"] == expected["steps_in_epoch"]


EXACT = {"rtol": 0, "atol": 0}
FLOAT32 = {"rtol": 1e-3, "atol": 1e-5}  # after an epoch of updates, each of which agrees to 1e-6


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rule", RULES)
def test_cpu_kernels_equal_eager(model, rule):
    steps = make_engine(EagerEngine, model, rule).sampler.steps
    compiled = train(make_engine(CpuEngine, model, rule), (0, steps))
    assert_same(compiled, train(make_engine(EagerEngine, model, rule), (0, steps)), **FLOAT32)


def make_image_engine(
    engine_class, rule="published", optimizer="adamw", features=(4, 6), num_models=2, augmented=True, **options
):
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(31, 3, 8, 8, generator=generator), torch.randint(3, (31,), generator=generator))
    augmentation = Augmentation(padding=1, flip=True, fill=(0.0, 0.0, 0.0)) if augmented else None
    ensemble = build_ensemble(lambda generator: cnn((3, 8, 8), 3, features, generator), range(num_models))
    optimizer = OPTIMIZERS[optimizer]([p for layer in ensemble.parameters for p in layer.values()])
    dataset = Dataset("made up", split, split, 3, augmentation)
    sampler = Sampler(31, 6, sliding=True, augmentation=augmentation)
    return engine_class(ensemble, RULES[rule], optimizer, dataset, sampler, HSICMonitor(2.0, SIGMAS), **options)


@pytest.mark.parametrize("rule", ["published", "exact"])
@pytest.mark.parametrize("options", [{}, {"features": (5,), "num_models": 1, "augmented": False}])
def test_convolution_engine_equals_eager(rule, options):
    compiled = train(make_image_engine(ConvolutionEngine, rule, **options), (0, 26))
    assert_same(compiled, train(make_image_engine(EagerEngine, rule, **options), (0, 26)), **FLOAT32)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fused_optimizers_read_the_gradients_of_convolutions_right(optimizer):
    """torch's fused kernels read a gradient's memory in the parameter's order, whatever its strides are."""
    fused = make_image_engine(EagerEngine, optimizer=optimizer)
    plain = make_image_engine(EagerEngine, optimizer=optimizer)
    for group in plain.optimizer.param_groups:
        group["fused"] = False
    assert_same(train(fused, (0, 5)), train(plain, (0, 5)), **FLOAT32)


def test_convolution_engine_shows_what_diverges():
    engine = make_image_engine(ConvolutionEngine)
    engine.ensemble.parameters[0]["conv.weight"][1, 0] = torch.nan
    train(engine, (0, 2))
    assert engine.metrics()["loss"].isfinite().tolist() == [True, False]
    assert engine.first_bad_layer(1) == "layer 0"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_cpu_optimizers_equal_torch(optimizer):
    compiled = train(make_engine(CpuEngine, optimizer=optimizer), (0, 26))
    assert_same(compiled, train(make_engine(EagerEngine, optimizer=optimizer), (0, 26)), **FLOAT32)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda e=e, m=m: make_engine(e, m) for e in (EagerEngine, CpuEngine) for m in ("mlp", "lif")),
        *(lambda e=e: make_image_engine(e) for e in (EagerEngine, ConvolutionEngine)),
    ],
    ids=["eager-mlp", "eager-lif", "compiled-mlp", "compiled-lif", "eager-cnn", "compiled-cnn"],
)
def test_results_do_not_depend_on_how_steps_are_cut(make):
    whole = train(make(), (0, 26))
    cut = train(make(), (0, 1), (1, 9), (9, 25), (25, 26))
    assert_same(cut, whole, **EXACT)


def test_cpu_engine_goes_on_from_eager_and_back():
    """Weights, moments, counts and states are the same memory in the same form."""
    first, second = make_engine(EagerEngine, "lif"), make_engine(CpuEngine, "lif")
    train(first, (0, 9))
    second.load_state_dict(first.state_dict())
    epoch = second.draw_epoch(torch.Generator().manual_seed(1))
    second.compile()
    second.run(epoch, 9, 26)
    whole = train(make_engine(EagerEngine, "lif"), (0, 26))
    assert_same((second.state_dict(), second.metrics()), whole, **FLOAT32)


def test_members_do_not_depend_on_each_other():
    three = train(make_engine(CpuEngine, num_models=3), (0, 26))[0]["parameters"]
    one = train(make_engine(CpuEngine, num_models=1), (0, 26))[0]["parameters"]
    torch.testing.assert_close([{n: p[:1] for n, p in layer.items()} for layer in three], one, **EXACT)


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


def refuse(engine):
    def capture(function):
        replay_by_calling(function)
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

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


def choose(
    name, make=MODELS["mlp"], rule=RULES["published"], optimizer=OPTIMIZERS["adamw"], num_epochs=1000, num_models=1
):
    ensemble = build_ensemble(make, range(num_models))
    optimizer = optimizer([p for layer in ensemble.parameters for p in layer.values()])
    return choose_engine(name, ensemble, rule, optimizer, Sampler(31, 6, rule.sliding), num_epochs)


@pytest.mark.parametrize("name", ["auto", "compiled"])
def test_a_graph_is_required_where_compiled_is_asked_for(name, monkeypatch):
    monkeypatch.setattr(choice, "device_type", lambda ensemble: "cuda")
    ensemble = build_ensemble(MODELS["mlp"], range(1))
    optimizer = OPTIMIZERS["adamw"]([p for layer in ensemble.parameters for p in layer.values()])
    engine = choose_engine(name, ensemble, RULES["exact"], optimizer, Sampler(31, 6, True), 1000, name == "compiled")
    assert engine.func is GraphEngine
    assert engine.keywords == {"required": name == "compiled"}


@pytest.fixture
def cold(monkeypatch):
    """Nothing is compiled yet."""
    for engine in (CpuEngine, ConvolutionEngine):
        monkeypatch.setattr(engine, "is_compiled", lambda layers, rule: False)


def test_auto_takes_what_an_earlier_run_compiled():
    train(make_engine(CpuEngine, "linear", num_models=1), (0, 1))
    assert choose("auto", make=MODELS["linear"], num_epochs=1) is CpuEngine
    assert CpuEngine.is_compiled([Readout], RULES["exact"])
    assert not CpuEngine.is_compiled([Readout] * 17, RULES["exact"])
    train(make_image_engine(ConvolutionEngine), (0, 1))
    assert choose("auto", make=CNN, num_epochs=1) is ConvolutionEngine


@pytest.mark.usefixtures("cold")
def test_auto_compiles_what_is_covered_and_long():
    assert choose("auto") is CpuEngine
    assert choose("auto", num_epochs=1) is EagerEngine
    assert choose("auto", num_epochs=50) is EagerEngine
    assert choose("auto", num_epochs=50, num_models=30) is CpuEngine
    assert choose("compiled", num_epochs=1) is CpuEngine
    assert choose("eager") is EagerEngine
    assert choose("auto", make=CNN) is ConvolutionEngine


class Residual(Network):
    """Runs its layers in a way of its own."""


def unlike(generator):
    return [LeakyIntegrator(7, 4, 0.2, True, generator), LeakyIntegrator(4, 3, 0.5, False, generator)]


UNCOVERED = {
    "hidden layer without relu": {"make": lambda generator: Network(*[linear((7,), 7, generator).layers[0]] * 2)},
    "decoupled decay": {"optimizer": lambda p: torch.optim.Adam(p, decoupled_weight_decay=True)},
    "modulator": {"rule": BioHSIC(2.0, SIGMAS, modulator=MEMORY)},
    "modulator of convolutions": {"make": CNN, "rule": BioHSIC(2.0, SIGMAS, modulator=MEMORY)},
    "rule on convolutions": {"make": CNN, "rule": RULES["backprop"]},
    "neurons of two kinds": {"make": lambda generator: Network(*unlike(generator), num_timesteps=3)},
    "a network of another order": {"make": lambda generator: Residual(*mlp((7,), 3, (9, 5), generator).layers)},
    "own layers": {"make": lambda generator: Network(torch.nn.Linear(7, 4), torch.nn.Linear(4, 3))},
    "rule": {"rule": HSIC(2.0, SIGMAS)},
    "optimizer": {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)},
}


@pytest.mark.parametrize("case", UNCOVERED)
def test_what_kernels_do_not_cover_runs_in_eager(case):
    assert choose("auto", **UNCOVERED[case]) is EagerEngine
    with pytest.raises(UserError, match="engine=auto or engine=eager"):
        choose("compiled", **UNCOVERED[case])


def test_a_run_that_diverges_shows_as_not_finite():
    engine = make_engine(CpuEngine, optimizer="sgd")
    for group in engine.optimizer.param_groups:
        group["lr"] = 1e30
    train(engine, (0, 26))
    assert not engine.metrics()["loss"].isfinite().all()
    assert engine.first_bad_layer(0) is not None


def test_reasons_are_words():
    with pytest.raises(UserError, match="cover such a network of Linear;"):
        choose("compiled", **UNCOVERED["own layers"])
    with pytest.raises(UserError, match="cover the rule Backprop on convolutions;"):
        choose("compiled", **UNCOVERED["rule on convolutions"])


def test_a_state_may_be_what_was_elsewhere_in_it():
    """As a delay line's is: its new last is its old first."""
    old = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.arange(4.0).view(2, 2), torch.tensor([5.0, 6.0])]
    new = [torch.tensor([7.0, 8.0]), old[0], old[2].T, old[3]]
    expected = [tensor.clone() for tensor in new]
    copy_tree_(old, new)
    torch.testing.assert_close(old, expected, rtol=0, atol=0)


def test_an_empty_range_changes_nothing():
    """Also behind the last, smaller batch of an epoch."""
    engine = make_engine(CpuEngine, rule="backprop")
    steps = engine.sampler.steps
    state, metrics = train(engine, (0, steps), (steps, steps))
    expected = train(make_engine(CpuEngine, rule="backprop"), (0, steps))
    assert_same((state, metrics), expected, **EXACT)
