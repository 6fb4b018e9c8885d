"""Learning from a stream with a memory: engines, command lines, resuming, and what is refused."""

import json

import pytest
import torch
from made_up_engines import EXACT, FLOAT32, OPTIMIZERS, assert_same, train
from test_resume import compare_with_uninterrupted
from tiny_runs import accuracies

from projectlib.data import Augmentation, Dataset, Sampler, Split
from projectlib.engines.choice import choose_engine
from projectlib.engines.cpu import convolution, stream
from projectlib.engines.cpu.cnn_stream import ConvolutionStreamEngine
from projectlib.engines.cpu.kernels.compiler import cached_signatures
from projectlib.engines.cpu.kernels.stream import train_stream
from projectlib.engines.cpu.stream import StreamEngine
from projectlib.engines.cuda_graph import GraphEngine
from projectlib.engines.eager import EagerEngine
from projectlib.ensemble import build_ensemble
from projectlib.models import LeakyIntegrator, SpikingLayer, cnn, lif_mlp, mlp, spiking_mlp
from projectlib.modulators import ClassMeansModulator, CovarianceModulator, DeltaModulator, RememberedModulator
from projectlib.rules import BioHSIC

MEMORIES = {
    "parzen": RememberedModulator(4, sigma=0.5),
    "contrastive": RememberedModulator(4, "contrastive", sigma=0.5),
    "published": RememberedModulator(4, "published", sigmas=(0.5, 0.3, 1.0)),
    "covariance": CovarianceModulator(horizon=20),
    "delta": DeltaModulator(),
    "class-means": ClassMeansModulator(rate=0.1, temperature=0.3),
}
MODELS = {
    "mlp": lambda generator: mlp((7,), 3, (9, 5), generator),
    "lif": lambda generator: lif_mlp((7,), 3, (6, 4), 5e-3, 1e-3, 3, generator),
    "spiking": lambda generator: spiking_mlp((7,), 3, (6, 4), 5e-3, 1e-2, 0.2, 1e-3, 2.0, 1e-3, 3, generator),
    "cnn": lambda generator: cnn((3, 8, 8), 3, (4, 6), generator),
}
CELLS = [*(("lif", name) for name in MEMORIES), ("spiking", "covariance"), ("spiking", "delta")]
"""Neurons with a state, and memories: each kind of either is compiled, and those combinations that settings are for."""
NUM = 23


@pytest.fixture(params=MEMORIES)
def memory(request):
    return request.param


def make_engine(
    engine_class,
    memory,
    accumulate=1,
    readout_window=3,
    optimizer="adamw",
    model="mlp",
    seeds=(0, 1),
    readout_lr=3e-3,
    **options,
):
    generator = torch.Generator().manual_seed(0)
    shape = (3, 8, 8) if model == "cnn" else (7,)
    split = Split(torch.randn(NUM, *shape, generator=generator), torch.randint(3, (NUM,), generator=generator))
    augmentation = Augmentation(padding=1, flip=True, fill=(0.0, 0.0, 0.0)) if model == "cnn" else None
    rule = BioHSIC(modulator=MEMORIES[memory], accumulate=accumulate, readout_window=readout_window)
    ensemble = build_ensemble(MODELS[model], seeds)
    sampler = Sampler(NUM, rule.window, rule.sliding, drop_last=model in ("lif", "spiking"), augmentation=augmentation)
    *hidden, readout = ensemble.parameters
    groups = [{"params": [p for layer in hidden for p in layer.values()]}]
    groups += [{"params": [*readout.values()], "lr": readout_lr}]
    dataset = Dataset("made up", split, split, 3, augmentation)
    return engine_class(ensemble, rule, OPTIMIZERS[optimizer](groups), dataset, sampler, **options)


def compare(engine_class, memory, **options):
    engine, reference = (make_engine(c, memory, **options) for c in (engine_class, EagerEngine))
    steps = engine.sampler.steps
    assert_same(train(engine, (0, steps)), train(reference, (0, steps)), **FLOAT32)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_stream_engine_equals_eager(memory, optimizer, accumulate):
    """Weights, moments, what layers remember and the readout replays, and metrics; 4 leaves a last block of 3."""
    compare(StreamEngine, memory, optimizer=optimizer, accumulate=accumulate)


@pytest.mark.parametrize("readout_window", [1, 3])
@pytest.mark.parametrize(("model", "memory"), CELLS)
def test_the_stream_engine_of_neurons_with_a_state_equals_eager(memory, readout_window, model):
    compare(StreamEngine, memory, model=model, readout_window=readout_window)


def test_code_for_neurons_that_fire_is_told_from_that_for_leaky_integrators(monkeypatch):
    kinds = {"lif": [LeakyIntegrator] * 3, "spiking": [SpikingLayer, SpikingLayer, LeakyIntegrator]}
    for model in kinds:
        make_engine(StreamEngine, "delta", model=model).compile()
    signatures, found, rule = cached_signatures(train_stream), set(), BioHSIC(modulator=MEMORIES["delta"])
    for signature in signatures:
        monkeypatch.setattr(stream, "cached_signatures", lambda kernel, only=signature: [only])
        found.add(tuple(model for model, layers in kinds.items() if StreamEngine.is_compiled(layers, rule)))
    assert found >= {("lif",), ("spiking",)}
    assert ("lif", "spiking") not in found


@pytest.mark.parametrize(("accumulate", "readout_window"), [(1, 1), (4, 3)])
def test_the_convolution_engine_equals_eager(memory, accumulate, readout_window):
    compare(ConvolutionStreamEngine, memory, model="cnn", accumulate=accumulate, readout_window=readout_window)


def test_convolutions_in_tiles_equal_eager(monkeypatch):
    monkeypatch.setattr(convolution, "FEW_TILES", 1)
    monkeypatch.setattr(convolution, "FEW_CHANNELS", 3)
    compare(ConvolutionStreamEngine, "delta", model="cnn", accumulate=4)


class Silent(DeltaModulator):
    """Has its own way of looking at images."""

    def __call__(self, sample, state, window_signal):
        xi, state = super().__call__(sample, state, window_signal)
        return 0 * xi, state


def test_a_memory_that_sees_images_in_its_own_way_runs_in_eager():
    engine = make_engine(EagerEngine, "delta", model="cnn")
    rule, task = BioHSIC(modulator=Silent()), (engine.optimizer, engine.sampler)
    assert "Silent on convolutions" in (ConvolutionStreamEngine.unsupported(engine.ensemble, rule, *task) or "")
    assert ConvolutionStreamEngine.unsupported(engine.ensemble, engine.rule, *task) is None


@pytest.mark.parametrize("model", ["mlp", "lif"])
def test_engines_go_on_from_each_other_inside_an_epoch(memory, model):
    """Cut anywhere a step is the same, and a state passes from one engine to another and back."""
    whole = make_engine(StreamEngine, memory, model=model)
    expected = train(whole, (0, NUM))
    first = make_engine(StreamEngine, memory, model=model)
    state, _ = train(first, (0, 5), (5, 11))
    second = make_engine(StreamEngine, memory, model=model)
    second.compile()
    second.load_state_dict(state)
    second.run(second.draw_epoch(torch.Generator().manual_seed(1)), 11, NUM)
    assert_same((second.state_dict(), second.metrics()), expected, **EXACT)
    third = make_engine(EagerEngine, memory, model=model)
    third.load_state_dict(train(make_engine(StreamEngine, memory, model=model), (0, 11))[0])
    third.run(third.draw_epoch(torch.Generator().manual_seed(1)), 11, NUM)
    assert_same((third.state_dict(), third.metrics()), expected, **FLOAT32)


@pytest.mark.parametrize("engine_class", [EagerEngine, StreamEngine])
def test_a_member_alone_is_the_member_of_an_ensemble(memory, engine_class):
    together, _ = train(make_engine(engine_class, memory, seeds=(0, 1)), (0, NUM))
    alone, _ = train(make_engine(engine_class, memory, seeds=(1,)), (0, NUM))
    tolerance = EXACT if engine_class is StreamEngine else FLOAT32
    for key in ("parameters", "state"):
        of_member = torch.utils._pytree.tree_map(lambda stacked: stacked[1:], together[key])
        torch.testing.assert_close(of_member, alone[key], **tolerance)


@pytest.mark.usefixtures("few_steps")
def test_a_captured_step_equals_eager(memory):
    """Recorded by a stand-in, where there is no GPU: it repeats the function on the same tensors."""

    def captured(*arguments):
        return GraphEngine(*arguments, capture=lambda function: function, backend=None)

    compare(captured, memory, accumulate=4)


@pytest.mark.parametrize(
    ("model", "expected"), [("mlp", StreamEngine), ("spiking", StreamEngine), ("cnn", ConvolutionStreamEngine)]
)
def test_compiled_is_chosen_for_what_it_covers(memory, model, expected):
    engine = make_engine(EagerEngine, memory, model=model)
    task = engine.ensemble, engine.rule, engine.optimizer, engine.sampler
    assert choose_engine("compiled", *task, num_epochs=1) is expected


# The command line


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_memory_of_a_silent_layer_waits(script, tmp_path, engine):
    """Layer norm over one channel is 0, as all activity is for a black image: no signal, and no number is lost."""
    settings = ("data=digits", "data.limit=30", "model=cnn", "model.features=[1]", "nmodels=1", "training.nepochs=1")
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    ended = script("train-biohsic", *settings, "modulator=delta", f"engine={engine}", folder)
    assert ended.code == 0, ended.output


@pytest.mark.parametrize("modulator", ["remembered", "covariance", "delta", "class-means"])
def test_a_memory_learns_mnist(script, tmp_path, modulator):
    """From 2,000 digits, each seen once: 0.79 to 0.83 when written, 0.62 where no layer receives a signal."""
    folder = tmp_path / "run"
    settings = ("data=mnist_5000", "data.limit=2000", f"modulator={modulator}", "nmodels=1", "training.nepochs=1")
    assert script("train-biohsic", *settings, "engine=compiled", f"hydra.run.dir={folder}").code == 0
    assert accuracies(folder)[-1] > 0.7
    assert "hsic_layer0" not in (folder / "metrics.csv").read_text()


def test_leaky_integrators_with_a_memory(script, tmp_path):
    folder = tmp_path / "run"
    settings = ("data=xor", "modulator=delta", "nmodels=2", "training.nepochs=1", "data.limit=60", "engine=eager")
    ended = script("train-lif-biohsic", *settings, "training.sample_timesteps=3", f"hydra.run.dir={folder}")
    assert ended.code == 0, ended.output
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"


def test_convolutions_with_a_memory(script, tmp_path):
    settings = ("data=digits", "model=cnn", "model.features=[4,6]", "modulator=delta", "nmodels=1", "data.limit=60")
    more = ("optimizer.accumulate=4", "training.nepochs=1", "engine=compiled", f"hydra.run.dir={tmp_path / 'run'}")
    ended = script("train-biohsic", *settings, *more)
    assert ended.code == 0, ended.output


@pytest.mark.parametrize(
    ("modulator", "engine"),
    [("delta", "eager"), *((name, "compiled") for name in ("remembered", "covariance", "delta", "class-means"))],
)
def test_a_run_that_was_stopped_inside_an_epoch(script, tmp_path, modulator, engine):
    settings = ("data=digits", "data.limit=30", f"modulator={modulator}", "nmodels=1", "training.nepochs=3")
    compare_with_uninterrupted(script, tmp_path, "train-biohsic", *settings, f"engine={engine}")


STREAMS = {
    "convolutions": ("train-biohsic", "data=digits", "model=cnn", "model.features=[4]", "modulator=delta"),
    "classifiers of convolutions": ("train-biohsic", "data=digits", "model=cnn", "rule=local-classifier"),
    "spikes": ("train-lif-biohsic", "data=xor", "model=spiking-mlp", "training.sample_timesteps=2", "modulator=delta"),
}


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_was_stopped_inside_an_epoch(script, tmp_path, name, engine):
    tiny = ("data.limit=30", "nmodels=1", "training.nepochs=1", f"engine={engine}")
    compare_with_uninterrupted(script, tmp_path, *STREAMS[name], *tiny, num_steps=10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["modulator=delta", "data.batchsize=6"], "data.batchsize=6 has no effect with modulator=delta"),
        (["modulator=remembered", "hsic.gamma=3"], "hsic.gamma=3 has no effect with modulator=remembered"),
        (["modulator=covariance", "training.log_hsic=true"], "training.log_hsic=true has no effect"),
        (["optimizer.accumulate=4"], "optimizer.accumulate is 4, which is for a stream of samples"),
        (["rule=backprop", "readout.window=4"], "readout.window is 4, which is for a stream of samples"),
        (["modulator=delta", "optimizer.accumulate=0"], "optimizer.accumulate is 0; expected a whole number"),
        (
            ["modulator=delta", "optimizer.accumulate=2000"],
            "optimizer.accumulate is 2000; expected at most",
        ),
        (["modulator=delta", "modulator.horizon=0.5"], "modulator.horizon is 0.5; expected a number of samples"),
        (["modulator=remembered", "modulator.size=0"], "modulator.size is 0; expected a whole number"),
        (["modulator=delta", "modulator.grid=0"], "modulator.grid is 0; expected a whole number"),
        (["modulator=delta", "data.scale=sharp"], "data.scale is 'sharp'; expected unit or symmetric or standardize"),
        (["modulator=delta", "optimizer.readout_lr=0"], "optimizer.readout_lr is 0; expected a number above 0"),
        (["modulator=delta", "rule=frozen"], "which has no effect on the rule Frozen"),
    ],
)
def test_what_a_memory_cannot_do_is_one_line(script, settings, message):
    ended = script("train-biohsic", "data=digits", *settings)
    assert ended.code == 1
    assert message in ended.output
    assert "Traceback" not in ended.output


def test_time_steps_that_share_weights_are_refused(script):
    ended = script("train-lif-biohsic", "data=xor", "modulator=delta", "optimizer.accumulate=2")
    assert ended.code == 1
    assert "expected 1 with layers that have a state" in ended.output


def test_the_paper_s_signal_of_a_memory_takes_its_settings(script, tmp_path):
    settings = ("data=digits", "modulator=remembered", "modulator.signal=exact", "hsic.gamma=3", "modulator.size=5")
    more = ("nmodels=1", "data.limit=60", "training.nepochs=1", "engine=eager", f"hydra.run.dir={tmp_path / 'run'}")
    assert script("train-biohsic", *settings, *more).code == 0


def test_a_window_with_parzen_s_signal(script, tmp_path):
    settings = ("data=digits", "hsic.form=parzen", "nmodels=1", "data.limit=60", "training.nepochs=1")
    assert script("train-biohsic", *settings, f"hydra.run.dir={tmp_path / 'run'}").code == 0
