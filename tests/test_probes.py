"""Probes against automatic differentiation, and that looking changes nothing."""

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map

from projectlib.data import Dataset, Sampler, Split, digits, xor
from projectlib.engines import EagerEngine
from projectlib.ensemble import build_ensemble
from projectlib.hsic import hsic_bottleneck
from projectlib.models import Network, cnn, lif_mlp, mlp
from projectlib.models.network import affine
from projectlib.modulators import DeltaModulator, Sample, WindowModulator
from projectlib.rules import Backprop, BioHSIC, TrainingState
from projectlib.training.probes import Probe, by_class, cosine, settle

GAMMA, SIGMAS = 2.0, (0.5, 0.1, 1.0)


def ensemble_of(model, dataset, **settings):
    return build_ensemble(
        lambda generator: model(dataset.input_shape, dataset.num_classes, generator=generator, **settings), range(2)
    )


def probe_of(ensemble, dataset, form="published", window=6, epochs=(0,)):
    rule = BioHSIC(GAMMA, SIGMAS, form)
    state = TrainingState((), ((),) * ensemble.num_layers)
    return Probe(epochs, ensemble, rule, dataset.train, dataset.num_classes, GAMMA, SIGMAS, window, lambda: state)


def exact_gradient(x, y, z):
    """Of the objective with respect to the newest z, by automatic differentiation in float64."""
    newest = z[-1:].double().clone().requires_grad_()
    everything = torch.cat([z[:-1].double(), newest])
    total, _, _ = hsic_bottleneck(x.double(), y.double(), everything, GAMMA, SIGMAS)
    return torch.autograd.grad(total, newest)[0][0]


@pytest.mark.parametrize("form", ["published", "exact"])
def test_cosine_against_automatic_differentiation(form):
    data = digits()
    ensemble = ensemble_of(mlp, data, features=[12, 8])
    probe = probe_of(ensemble, data, form)
    arrays = probe(0)
    sizes = arrays["window_sizes"].tolist()
    assert sizes == [2, 4, 6, 8, 16, 32, 64]
    assert arrays["cosine"].shape == (2, 2, 7)
    size = 6
    for member in range(2):
        for layer in range(2):
            found = []
            for x, y in probe.windows:
                h = x[-size:].flatten(1)
                for parameters in ensemble.member(member)[: layer + 1]:
                    a = (h @ parameters["affine.weight"].T + parameters["affine.bias"]).relu()
                    h = (a - a.mean(1, keepdim=True)) / (a.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
                xi = probe.rule.signal(h, probe.rule.prepare(x[-size:], y[-size:]))
                gradient = exact_gradient(x[-size:], y[-size:], h)
                found.append(torch.cosine_similarity(1e6 * xi.double(), 1e6 * gradient, dim=0))
            expected = torch.stack(found).mean().float()
            torch.testing.assert_close(arrays["cosine"][member, layer, sizes.index(size)], expected, atol=1e-3, rtol=0)


def test_the_published_signal_is_the_gradient_at_a_window_of_two():
    data = digits()
    ensemble = ensemble_of(mlp, data, features=[12, 8])
    published = probe_of(ensemble, data)(0)["cosine"]
    torch.testing.assert_close(published[..., 0], torch.ones(2, 2))
    assert (published[..., -1] < 0.9).all()


def test_weight_change_is_input_times_signal_through_the_layer():
    data = digits()
    ensemble = ensemble_of(mlp, data, features=[12, 8])
    probe = probe_of(ensemble, data)
    arrays = probe(0)
    x, _ = (tensor[-6:] for tensor in probe.windows[0])
    outputs, _ = settle(ensemble.network, ensemble.member(0), x)
    layer = {name: p.clone().requires_grad_() for name, p in ensemble.member(0)[1].items()}
    z, _ = ensemble.network.layer(1)(layer, outputs[0][-1:], ())
    (gradient,) = torch.autograd.grad((z[0] * arrays["signal"]).sum(), layer["affine.weight"])
    torch.testing.assert_close(arrays["weight_change"], -gradient)
    torch.testing.assert_close(arrays["input"], outputs[0][-1])


def trained_probe(model, features, modulator):
    """An engine of two models after 30 steps on made-up images, and a probe of them."""
    generator = torch.Generator().manual_seed(0)
    data = Split(torch.randn(70, 3, 8, 8, generator=generator), torch.randint(3, (70,), generator=generator))
    dataset, rule = Dataset("made up", data, data, num_classes=3), BioHSIC(GAMMA, SIGMAS, modulator=modulator)
    ensemble, sampler = ensemble_of(model, dataset, features=features), Sampler(70, rule.window or 6, rule.sliding)
    optimizer = torch.optim.SGD([p for layer in ensemble.parameters for p in layer.values()], lr=0.1)
    engine = EagerEngine(ensemble, rule, optimizer, dataset, sampler)
    engine.run(engine.draw_epoch(generator), 0, 30)
    return engine, Probe((1,), ensemble, rule, data, 3, GAMMA, SIGMAS, 6, lambda: engine.state)


def memory_of(engine, layer):
    """The first member's."""
    return tree_map(lambda stacked: stacked[0], engine.state.rule[layer])


@pytest.mark.parametrize(("model", "features"), [(cnn, [4, 6]), (mlp, [12, 9, 8])])
def test_what_is_known_of_classes_is_that_of_the_last_hidden_layer(model, features):
    engine, probe = trained_probe(model, features, DeltaModulator())
    memory = memory_of(engine, len(features) - 1)
    predictor = memory.memory if model is cnn else memory
    torch.testing.assert_close(probe(1)["of_classes"], predictor.q, rtol=0, atol=0)
    assert predictor.q.abs().max() > 1e-3


@pytest.mark.parametrize("modulator", [WindowModulator(), DeltaModulator()], ids=["window", "memory"])
@pytest.mark.parametrize(("model", "features"), [(cnn, [5]), (cnn, [4, 6]), (mlp, [40, 8])])
def test_three_factors_are_means_over_pixels_and_sums_over_the_kernel(model, features, modulator):
    """In loops, of the last hidden layer; 32 of 40 inputs."""
    engine, probe = trained_probe(model, features, modulator)
    arrays, network, parameters = probe(1), engine.ensemble.network, engine.ensemble.member(0)
    size, last = 1 if engine.rule.streams else 6, len(features) - 1
    x, y = (tensor[-size:] for tensor in probe.windows[0])
    outputs, _ = settle(network, parameters, x)
    received, z = [x, *outputs][last : last + 2]
    if engine.rule.streams:
        xi, _ = modulator(Sample(x[-1], y[-1], z[-1]), memory_of(engine, last), None)
    else:
        xi = engine.rule.signal(z, engine.rule.prepare(x, y))
    layer = {name: p.clone().requires_grad_() for name, p in parameters[last].items()}
    output, _ = network.layer(last)(layer, received[-1:], ())
    (change,) = torch.autograd.grad(-(output[0] * xi).sum(), [p for p in layer.values() if p.ndim > 1])
    source = received[-1]
    if model is cnn:
        change = sum(change[:, :, row, column] for row in range(3) for column in range(3))
        images = source if last else source.permute(1, 2, 0), xi
        source, xi = (sum(pixel for row in a for pixel in row) / (a.shape[0] * a.shape[1]) for a in images)
    else:
        kept = [round(i * 39 / 31) for i in range(32)]
        source, change = source.flatten()[kept], change[:, kept]
    for name, expected in (("input", source), ("signal", xi), ("weight_change", change)):
        largest = expected.abs().max()
        torch.testing.assert_close(arrays[name] / largest, expected / largest, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "data", "settings", "shape"),
    [
        (cnn, digits, {"features": [4, 40]}, (32, 4)),
        (cnn, digits, {"features": [4]}, (4, 1)),
        (mlp, digits, {"features": [8]}, (8, 32)),
        (
            lif_mlp,
            lambda: xor(0),
            {"features": [10, 4], "time_constant": 5e-3, "time_step": 1e-3, "num_timesteps": 3},
            (4, 10),
        ),
    ],
)
def test_every_model_can_be_looked_into(model, data, settings, shape):
    data = data()
    ensemble = ensemble_of(model, data, **settings)
    arrays = probe_of(ensemble, data)(0)
    assert arrays["weight_change"].shape == shape
    assert (arrays["signal"].shape, arrays["input"].shape) == (shape[:1], shape[1:])
    assert all(array.isfinite().all() for array in arrays.values())
    n = len(arrays["labels"])
    assert arrays[f"kernel_layer{len(settings['features']) - 1}"].shape == (n, n)


@pytest.mark.parametrize(("width", "outputs"), [(8, 4), (6, 4), (2, 4), (64, 64)])
def test_of_a_layer_of_two_maps_there_is_no_weight_between_input_and_neurons(width, outputs):
    def make(input_shape, num_classes, generator):
        layer = torch.nn.Sequential(
            torch.nn.Flatten(), affine(64, width, generator), torch.nn.Tanh(), affine(width, outputs, generator)
        )
        return Network(layer, affine(outputs, num_classes, generator))

    data = digits()
    arrays = probe_of(ensemble_of(make, data), data)(0)
    assert "kernel_layer0" in arrays
    assert not {"input", "signal", "weight_change"} & {*arrays}


def test_looking_changes_nothing_and_happens_when_asked():
    data = xor(0)
    settings = {"features": [5], "time_constant": 5e-3, "time_step": 1e-3, "num_timesteps": 3}
    ensemble = ensemble_of(lif_mlp, data, **settings)
    before = [{name: p.clone() for name, p in layer.items()} for layer in ensemble.parameters]
    state = torch.get_rng_state()
    probe = probe_of(ensemble, data, epochs=(0, 3))
    first, second = probe(0), probe(3)
    assert probe(1) == probe(2) == {}
    assert (first.pop("epoch"), second.pop("epoch")) == (0, 3)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(before, ensemble.parameters, rtol=0, atol=0)
    assert torch.equal(state, torch.get_rng_state())


def test_a_rule_without_a_signal_has_representations_only():
    data = xor(0)
    ensemble = ensemble_of(mlp, data, features=[5])
    arrays = Probe((0,), ensemble, Backprop(), data.train, 2, GAMMA, SIGMAS, 6, state=lambda: None)(0)
    assert set(arrays) == {"epoch", "labels", "kernel_layer0"}


def test_samples_are_sorted_by_class():
    train = Split(torch.arange(300.0)[:, None], torch.arange(300) % 3)
    chosen = by_class(train, 3)
    assert chosen.labels.tolist() == [0] * 33 + [1] * 33 + [2] * 33
    assert torch.equal(chosen.inputs[:, 0].long() % 3, chosen.labels)
    assert by_class(Split(train.inputs[:2], train.labels[:2]), 3).labels.tolist() == [0, 1]


def test_cosine_of_tiny_and_of_zero():
    a, b = torch.tensor([3e-30, 4e-30]), torch.tensor([4e-25, 3e-25])
    assert cosine(a, b).item() == pytest.approx(0.96)
    assert cosine(a, torch.zeros(2)).isnan()


def test_a_resumed_run_ends_with_the_same_arrays(script, tmp_path):
    common = ("data=digits", "nmodels=2", "data.limit=60", "engine=eager", "training.log_arrays=[0,1,2]")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert script("train-biohsic", *common, "training.nepochs=2", f"hydra.run.dir={whole}").code == 0
    assert script("train-biohsic", *common, "training.nepochs=1", f"hydra.run.dir={cut}").code == 0
    assert script("train-biohsic", f"resume={cut}", "training.nepochs=2").code == 0
    with np.load(whole / "arrays.npz") as a, np.load(cut / "arrays.npz") as b:
        assert a.files == b.files
        assert a["epoch"].tolist() == [0, 1, 2]
        assert all(np.array_equal(a[name], b[name]) for name in a.files)
    plain = tmp_path / "plain"
    assert script("train-biohsic", *common[:4], "training.nepochs=2", f"hydra.run.dir={plain}").code == 0
    assert (plain / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert not (plain / "arrays.npz").exists()


def test_epochs_are_checked(script):
    ended = script("train-biohsic", "data=digits", "training.log_arrays=[-1]")
    assert ended.code == 1
    assert "training.log_arrays is [-1]; expected a list of epochs" in ended.error


def test_one_sample_is_enough(script, tmp_path):
    few = ("data=digits", "data.limit=1", "nmodels=1", "training.nepochs=1", "engine=eager")
    ended = script("train-biohsic", *few, "modulator=delta", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 0, ended.output
