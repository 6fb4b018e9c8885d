"""Every engine does eager's steps: the same weights, moments, states and metrics."""

import pytest
import torch

from projectlib.data import Augmentation, Dataset, Sampler, Split
from projectlib.engines.choice import choose_engine
from projectlib.engines.cpu.cnn import ConvolutionEngine
from projectlib.engines.cpu.mlp import CpuEngine
from projectlib.engines.cuda_graph import GraphEngine
from projectlib.engines.eager import EagerEngine
from projectlib.ensemble import build_ensemble
from projectlib.errors import UserError
from projectlib.models import Network, cnn, lif_mlp, linear, mlp
from projectlib.modulators import ReservoirModulator
from projectlib.rules import HSIC, Backprop, BioHSIC, Frozen
from projectlib.training.metrics import HSICMonitor

SIGMAS = (0.5, 0.3, 1.0)
RULES = {
    "published": BioHSIC(2.0, SIGMAS),
    "exact": BioHSIC(2.0, SIGMAS, form="exact"),
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


@pytest.mark.parametrize(("model", "rule"), [("mlp", "published"), ("mlp", "backprop"), ("lif", "exact")])
def test_graph_engine_replays_eager(model, rule):
    """The captured step with a capture that replays by calling: counters, fixed memory, the last smaller batch."""
    eager = make_engine(EagerEngine, model, rule)
    calls = []

    def capture(function):
        for _ in range(3):  # as on a GPU, where the warm-up runs must leave no trace
            function()
        return lambda: (calls.append(function), function())

    graph = make_engine(GraphEngine, model, rule, capture=capture, backend=None)
    steps = eager.sampler.steps
    ranges = [(0, 5), (5, 20), (20, steps)] if steps > 20 else [(0, 5), (5, steps)]
    assert_same(train(graph, *ranges), train(eager, *ranges), **EXACT)
    assert calls


def test_graph_engine_is_captured_on_an_epoch_of_one_step():
    def capture(function):
        for _ in range(3):
            function()
        return function

    graph = make_engine(GraphEngine, window=31, capture=capture, backend=None)
    assert_same(train(graph, (0, 1)), train(make_engine(EagerEngine, window=31), (0, 1)), **EXACT)


@pytest.mark.parametrize("make", [make_engine, make_image_engine], ids=["mlp", "augmented cnn"])
def test_steps_trace_into_one_graph(make):
    """torch.compile takes a window and its time step without a break; fullgraph raises where it could not."""
    graph = make(GraphEngine, capture=lambda function: function, backend="aot_eager")
    assert_same(train(graph, (0, 26)), train(make(EagerEngine), (0, 26)), **FLOAT32)


def choose(
    name, make=MODELS["mlp"], rule=RULES["published"], optimizer=OPTIMIZERS["adamw"], num_epochs=1000, num_models=1
):
    ensemble = build_ensemble(make, range(num_models))
    optimizer = optimizer([p for layer in ensemble.parameters for p in layer.values()])
    return choose_engine(name, ensemble, rule, optimizer, Sampler(31, 6, rule.sliding), num_epochs)


def test_auto_compiles_what_is_covered_and_long():
    assert choose("auto") is CpuEngine
    assert choose("auto", num_epochs=1) is EagerEngine
    assert choose("auto", num_epochs=50) is EagerEngine
    assert choose("auto", num_epochs=50, num_models=30) is CpuEngine
    assert choose("compiled", num_epochs=1) is CpuEngine
    assert choose("eager") is EagerEngine
    assert choose("auto", make=CNN) is ConvolutionEngine


UNCOVERED = {
    "hidden layer without relu": {"make": lambda generator: Network(*[linear((7,), 7, generator).layers[0]] * 2)},
    "decoupled decay": {"optimizer": lambda p: torch.optim.Adam(p, decoupled_weight_decay=True)},
    "modulator": {"rule": BioHSIC(2.0, SIGMAS, modulator=MEMORY)},
    "modulator of convolutions": {"make": CNN, "rule": BioHSIC(2.0, SIGMAS, modulator=MEMORY)},
    "rule on convolutions": {"make": CNN, "rule": RULES["backprop"]},
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
    with pytest.raises(UserError, match="cover layers of Linear;"):
        choose("compiled", **UNCOVERED["own layers"])
    with pytest.raises(UserError, match="cover the rule Backprop on convolutions;"):
        choose("compiled", **UNCOVERED["rule on convolutions"])
