"""Which engine a task gets: what each covers, and what ``engine=auto`` takes of those that do."""

import pytest
import torch
from made_up_engines import MODELS, OPTIMIZERS, RULES, SIGMAS, make_engine, make_image_engine, train

from projectlib.data import Sampler
from projectlib.engines import choice
from projectlib.engines.choice import choose_engine
from projectlib.engines.cpu.cnn import ConvolutionEngine
from projectlib.engines.cpu.mlp import CpuEngine
from projectlib.engines.cpu.stream import StreamEngine
from projectlib.engines.cuda_graph import GraphEngine
from projectlib.engines.eager import EagerEngine
from projectlib.ensemble import build_ensemble
from projectlib.errors import UserError
from projectlib.models import LeakyIntegrator, Network, SpikingLayer, cnn, linear, mlp
from projectlib.models.mlp import Readout
from projectlib.modulators import DeltaModulator, ReservoirModulator
from projectlib.rules import HSIC, BioHSIC

CNN = lambda generator: cnn((1, 8, 8), 3, (4,), generator)  # noqa: E731
MEMORY = ReservoirModulator(20, 1.2, 0.5, 5e-3, 1e-3, learning_rate=0.01, seed=0)


def choose(
    name,
    make=MODELS["mlp"],
    rule=RULES["published"],
    optimizer=OPTIMIZERS["adamw"],
    num_epochs=1000,
    num_models=1,
    required=True,
):
    ensemble = build_ensemble(make, range(num_models))
    optimizer = optimizer([p for layer in ensemble.parameters for p in layer.values()])
    return choose_engine(name, ensemble, rule, optimizer, Sampler(31, 6, rule.sliding), num_epochs, required)


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


SPIKING = {"rate": 0.2, "trace_rate": 0.1, "threshold": 0.2, "refractory": 1, "slope": 2.0}
NO_WINDOW = BioHSIC(2.0, SIGMAS, modulator=DeltaModulator(0.1, 100))


def spiking(readout_rate=0.2, normalized=False, **other):
    """Makes a network that fires, whose second layer has another constant."""

    def make(generator):
        first = SpikingLayer(7, 5, **SPIKING, generator=generator)
        second = SpikingLayer(5, 4, **{**SPIKING, **other}, generator=generator)
        readout = LeakyIntegrator(4, 3, readout_rate, normalized, generator)
        return Network(first, second, readout, num_timesteps=3)

    return make


class Masked(torch.nn.Linear):
    def forward(self, h):
        return super().forward(h) * (torch.arange(self.out_features) % 2)


def circular(num_in, num_out):
    return torch.nn.Conv2d(num_in, num_out, 3, padding=1, padding_mode="circular")


def changed(network, name, part):
    """A network whose first layer has another part."""
    setattr(network.layers[0], name, part)
    return network


def hooked(generator):
    network = mlp((7,), 3, (9,), generator)
    network.layers[0].register_forward_hook(lambda layer, inputs, outputs: None)
    return network


def with_hook(parameters):
    optimizer = torch.optim.AdamW(parameters)
    optimizer.register_step_post_hook(lambda optimizer, arguments, keywords: None)
    return optimizer


class OwnHSIC(HSIC):
    """It may do something else."""


UNCOVERED = {
    "hidden layer without relu": {"make": lambda generator: Network(*[linear((7,), 7, generator).layers[0]] * 2)},
    "decoupled decay": {"optimizer": lambda p: torch.optim.Adam(p, decoupled_weight_decay=True)},
    "modulator": {"rule": BioHSIC(2.0, SIGMAS, modulator=MEMORY)},
    "modulator of convolutions": {"make": CNN, "rule": BioHSIC(2.0, SIGMAS, modulator=MEMORY)},
    "rule on convolutions": {"make": CNN, "rule": RULES["backprop"]},
    "neurons of two kinds": {"make": lambda generator: Network(*unlike(generator), num_timesteps=3)},
    "a network of another order": {"make": lambda generator: Residual(*mlp((7,), 3, (9, 5), generator).layers)},
    "own layers": {"make": lambda generator: Network(torch.nn.Linear(7, 4), torch.nn.Linear(4, 3))},
    "rule": {"rule": OwnHSIC(2.0, SIGMAS)},
    "optimizer": {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)},
    "the largest second moment": {"optimizer": lambda p: torch.optim.AdamW(p, amsgrad=True)},
    "ascent": {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, maximize=True)},
    "a group of its own for biases": {
        "optimizer": lambda p: torch.optim.AdamW([{"params": p[::2]}, {"params": p[1::2]}])
    },
    "settings of its own for the readout": {
        "optimizer": lambda p: torch.optim.AdamW([{"params": p[:-2]}, {"params": p[-2:], "weight_decay": 0}])
    },
    "the readout alone, under a rule that trains all": {"optimizer": lambda p: torch.optim.AdamW(p[-2:])},
    "an optimizer with a hook": {"optimizer": with_hook},
    "eps that kernels round away": {"optimizer": lambda p: torch.optim.AdamW(p, eps=0)},
    "a masked layer": {"make": lambda generator: changed(mlp((7,), 3, (9,), generator), "affine", Masked(7, 9))},
    "another convolution": {"make": lambda generator: changed(CNN(generator), "conv", circular(1, 4))},
    "a hook": {"make": hooked},
    **{
        f"neurons that fire with another {name}": {"make": spiking(**{name: 2 * value}), "rule": NO_WINDOW}
        for name, value in SPIKING.items()
    },
    "a readout slower than what fires": {"make": spiking(readout_rate=0.1), "rule": NO_WINDOW},
    "a readout that is a hidden layer": {"make": spiking(normalized=True), "rule": NO_WINDOW},
    "several presentations of a block": {
        "make": lambda generator: Network(*mlp((7,), 3, (9,), generator).layers, num_timesteps=3),
        "rule": BioHSIC(2.0, SIGMAS, modulator=DeltaModulator(0.1, 100), accumulate=2),
    },
}


@pytest.mark.parametrize("case", UNCOVERED)
def test_what_kernels_do_not_cover_runs_in_eager(case):
    assert choose("auto", **UNCOVERED[case]) is EagerEngine
    with pytest.raises(UserError, match="engine=auto or engine=eager"):
        choose("compiled", **UNCOVERED[case])


def test_neurons_that_fire_alike_are_covered():
    assert choose("compiled", make=spiking(), rule=NO_WINDOW) is StreamEngine


def test_a_graph_covers_momentum_but_not_dampening(monkeypatch):
    """Which leaves out the first step: a captured one would not."""
    monkeypatch.setattr(choice, "device_type", lambda ensemble: "cuda")
    plain, dampened = (
        lambda p, d=dampening: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=d) for dampening in (0, 0.5)
    )
    assert choose("compiled", optimizer=plain).func is GraphEngine
    assert choose("auto", optimizer=dampened) is EagerEngine
    with pytest.raises(UserError, match="cover momentum with dampening; use engine=auto or engine=eager"):
        choose("compiled", optimizer=dampened)


def test_a_checkpoint_of_a_compiled_engine_goes_on_in_eager():
    """Of a run under auto: an earlier version may have covered more."""
    assert choose("compiled", required=False, **UNCOVERED["an optimizer with a hook"]) is EagerEngine


def test_groups_are_told_by_their_parameters():
    """Not by their shapes: XOR has two inputs and two classes."""
    swapped = lambda p: torch.optim.AdamW([{"params": p[-2:]}, {"params": p[:-2]}])  # noqa: E731
    split = lambda p: torch.optim.AdamW([{"params": p[:-2]}, {"params": p[-2:], "lr": 0.1}])  # noqa: E731
    make = lambda generator: mlp((2,), 2, (2,), generator)  # noqa: E731
    assert choose("auto", make=make, optimizer=swapped) is EagerEngine
    assert choose("auto", make=make, optimizer=split) is CpuEngine


def test_reasons_are_words():
    with pytest.raises(UserError, match="cover such a network of Linear;"):
        choose("compiled", **UNCOVERED["own layers"])
    with pytest.raises(UserError, match="cover the rule Backprop on convolutions;"):
        choose("compiled", **UNCOVERED["rule on convolutions"])
