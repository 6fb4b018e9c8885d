"""Spiking neurons against the analytic interspike interval, another implementation, and their equations in a loop."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import scripts_in_this_process

import projectlib
from projectlib import plotting
from projectlib.data import digits
from projectlib.errors import UserError
from projectlib.models import SpikingLayer, spiking_mlp
from projectlib.models.spiking import SpikingState
from projectlib.runs.run import Run
from projectlib.training.spikes import NUM_SAMPLES

TAU, TAU_TRACE = 10.0, 20.0  # time steps


def neurons(drives, refractory=0, threshold=1.0, tau=TAU, slope=2.0):
    """One neuron for each constant drive, whose input is 1."""
    layer = SpikingLayer(1, len(drives), 1 / tau, 1 / TAU_TRACE, threshold, refractory, slope, torch.Generator())
    layer = layer.double()
    with torch.no_grad():
        layer.affine.weight.copy_(torch.tensor(drives, dtype=torch.float64)[:, None])
    return layer


def spike_train(layer, num_steps, u=None):
    """(time steps, neurons) for an input of 1, and the state after it."""
    u, spikes = u or layer.initial_state(1), []
    for _ in range(num_steps):
        _, u = layer(torch.ones(1, 1, dtype=torch.float64), u)
        spikes.append(u.spikes[0])
    return torch.stack(spikes), u


@pytest.mark.parametrize("refractory", [0, 3])
@pytest.mark.parametrize("threshold", [0.2, 1.0])
def test_a_constant_drive_makes_it_fire_at_the_analytic_interval(refractory, threshold):
    drives = [0.9, 1.1, 1.5, 4.0, 30.0]
    spikes, _ = spike_train(neurons([threshold * drive for drive in drives], refractory, threshold), 300)
    assert spikes[:, 0].sum() == 0  # the drive does not reach the threshold
    for of_neuron, drive in list(zip(spikes.T, drives, strict=True))[1:]:
        interval = refractory + math.ceil(math.log(1 - 1 / drive) / math.log(1 - 1 / TAU))
        times = of_neuron.nonzero().flatten()
        assert (times.diff() == interval).all()
        assert times[0] == interval - refractory - 1  # from rest it has no refractory period behind it
        assert len(times) > 10


def test_short_time_steps_come_to_the_continuous_interval():
    """``T = t_ref + tau log(I / (I - theta))``, within a time step; times in ms."""
    for time_step in (1.0, 0.1, 0.01):
        spikes, _ = spike_train(neurons([2.0], round(2 / time_step), tau=10 / time_step), round(60 / time_step))
        interval = spikes[:, 0].nonzero().flatten().diff().double().mean() * time_step
        assert abs(interval - (2 + 10 * math.log(2))) <= time_step


def test_a_step_is_that_of_norse():
    """Another implementation, without a refractory period and with a synapse that is as quick as a time step."""
    lif = pytest.importorskip("norse.torch.functional.lif")
    drive = 3 * torch.rand(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = SpikingLayer(6, 6, 1 / TAU, 1 / TAU_TRACE, 1.0, 0, 2.0, torch.Generator()).double()
    with torch.no_grad():
        layer.affine.weight.copy_(torch.eye(6))
    p = lif.LIFParameters(tau_mem_inv=torch.tensor(1 / TAU, dtype=torch.float64))
    u, v = layer.initial_state(1), torch.zeros(1, 6, dtype=torch.float64)
    fired = 0
    for row in drive[:, None]:
        _, u = layer(row, u)
        expected, state = lif.lif_feed_forward_step(row, lif.LIFFeedForwardState(v=v, i=torch.zeros_like(v)), p, dt=1.0)
        v = state.v
        torch.testing.assert_close(u.spikes, expected, rtol=0, atol=0)
        torch.testing.assert_close(u.v, v, rtol=1e-12, atol=1e-12)
        fired += int(expected.sum())
    assert fired > 50


def test_random_drives_are_followed_step_by_step():
    """In a loop over neurons: v moves to the drive by 1 / tau, fires above 1, and is then put back to 0."""
    drive = 3 * torch.rand(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = SpikingLayer(6, 6, 1 / TAU, 1 / TAU_TRACE, 1.0, 0, 2.0, torch.Generator()).double()
    with torch.no_grad():
        layer.affine.weight.copy_(torch.eye(6))
    u, v, fired = layer.initial_state(1), [0.0] * 6, 0
    for row in drive:
        _, u = layer(row[None], u)
        v = [a + (float(i) - a) / TAU for a, i in zip(v, row, strict=True)]
        spikes = [a >= 1 for a in v]
        v = [0.0 if fires else a for a, fires in zip(v, spikes, strict=True)]
        assert u.spikes[0].bool().tolist() == spikes
        torch.testing.assert_close(u.v[0], torch.tensor(v, dtype=torch.float64), rtol=1e-12, atol=1e-12)
        fired += sum(spikes)
    assert fired > 50


def test_the_trace_is_the_exponential_sum_of_past_spikes():
    layer, num = neurons([1.3, 2.0, 5.0], refractory=1), 60
    spikes, u = spike_train(layer, num)
    ages = torch.arange(num - 1, -1, -1, dtype=torch.float64)
    expected = ((1 - 1 / TAU_TRACE) ** ages / TAU_TRACE) @ spikes
    torch.testing.assert_close(u.trace[0], expected, rtol=1e-12, atol=1e-12)
    z, _ = layer(torch.ones(1, 1, dtype=torch.float64), u)
    assert abs(z.mean()) < 1e-12
    assert abs(z.var(correction=0) - 1) < 1e-3


def test_a_gradient_meets_the_fast_sigmoid_and_nothing_older():
    """d trace / dW = (dt / tau_trace) s'(v) (dt / tau) h, and none of a neuron at rest; by hand."""
    layer = neurons([0.5, 1.5, 0.7], refractory=2, threshold=0.8, slope=3.0)
    v = torch.tensor([[0.1, 0.6, 0.4]], dtype=torch.float64)
    rest = torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64)
    u = SpikingState(v, rest, torch.zeros_like(v), torch.full_like(v, 0.3))

    def trace(weight):
        return torch.func.functional_call(layer, {"affine.weight": weight}, (torch.full((1, 1), 2.0).double(), u))[
            1
        ].trace

    jacobian = torch.func.jacrev(trace)(layer.affine.weight.detach())[0, :, :, 0]
    drive = 2 * layer.affine.weight.detach()[:, 0]
    new_v = v[0] + (drive - v[0]) / TAU
    slope = 1 / (0.8 * (1 + 3 * (new_v / 0.8 - 1).abs()) ** 2)
    expected = torch.diag(slope / TAU_TRACE * 2 / TAU * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(jacobian, expected, rtol=1e-12, atol=1e-15)


OPTIONS = {
    "time_constant": 5e-3,
    "trace_time_constant": 1e-2,
    "threshold": 0.2,
    "refractory": 1e-3,
    "slope": 2.0,
    "time_step": 1e-3,
}
BAD = {
    "threshold": ([0, -1, float("nan"), "high"], "model.threshold is"),
    "refractory": ([-1e-3, float("inf")], "model.refractory is"),
    "slope": ([-1, None], "model.slope is"),
    "time_constant": ([0, 5e-4], "model.time_constant"),
    "trace_time_constant": ([0, 5e-4], "model.trace_time_constant"),
    "time_step": ([0, "1e-3"], "training.time_step is"),
    "num_timesteps": ([0, 2.5], "num_timesteps is"),
}


@pytest.mark.parametrize("name", BAD)
def test_values_that_no_neuron_has_are_refused(name):
    values, message = BAD[name]
    for value in values:
        options = {**OPTIONS, "num_timesteps": 2, name: value}
        with pytest.raises(UserError, match=message):
            spiking_mlp((3,), 2, (4,), generator=torch.Generator(), **options)


def test_memories_learn_xor_through_spikes(script):
    """From 50 % of a network that does not learn; the frozen one has about 70 %."""
    tiny = ["data=xor", "model=spiking-mlp", "nmodels=2", "training.nepochs=2", "engine=compiled"]
    ended = script("train-lif-biohsic", *tiny, "modulator=delta", "hydra.run.dir=run")
    assert ended.code == 0, ended.output
    run = projectlib.load("run")
    last = run.metrics.query("epoch == 2 and split == 'test'").accuracy
    assert last.min() > 0.9


@pytest.fixture(scope="module")
def spiking_run(tmp_path_factory):
    """Two models on a few digits, looked into after training."""
    folder = tmp_path_factory.mktemp("spiking")
    few = ["data.limit=40", "training.nepochs=1", "training.log_hsic=false", "training.log_arrays=[1]", "nmodels=2"]
    chosen = ["data=digits", "model=spiking-mlp", "model.features=[9,7]", "modulator=delta", "engine=eager"]
    with scripts_in_this_process(folder) as run:
        assert run("train-lif-biohsic", *chosen, *few, "hydra.run.dir=run") == 0
    return projectlib.load(folder / "run")


def test_spikes_a_sample_are_counted_over_all_neurons_and_time_steps(spiking_run):
    network, x = spiking_run.ensemble.network, digits().test.inputs[:NUM_SAMPLES]
    counted = spiking_run.metrics.query("split == 'test' and epoch == 1").sort_values("model").spikes
    for index, expected in enumerate(counted):
        parameters, state, total = spiking_run.ensemble.member(index), network.initial_state(len(x)), 0
        for _ in range(network.num_timesteps):
            _, state = network.run(parameters, state, x)
            total += sum(int(state[layer].spikes.sum()) for layer in (0, 1))
        assert expected == pytest.approx(total / len(x))
        assert expected > 0


def test_a_raster_has_a_mark_for_every_spike(spiking_run):
    trains = [
        train[-1] for name, train in sorted(Run(spiking_run.folder).arrays().items()) if name.startswith("spikes_layer")
    ]
    assert [train.shape for train in trains] == [(20, 10, 9), (20, 10, 7)]
    figure, axes = plt.subplots(1, 2)
    plotting.spikes.raster(spiking_run.folder, axes)
    for ax, train in zip(axes, trains, strict=True):
        assert len(ax.lines[0].get_xdata()) == train.sum() > 0
    plt.close(figure)
