"""Who supplies the signal: the window, or a working memory that is taught to."""

import pytest
import torch

from projectlib.errors import UserError
from projectlib.models import lif_mlp, mlp
from projectlib.modulators import ReservoirModulator, Sample, WindowModulator
from projectlib.rules import BioHSIC

SIGMAS = (0.5, 0.3, 1.0)
UNITS = {"nhidden": 30, "recurrent_strength": 1.2, "density": 0.5, "time_constant": 5e-3, "time_step": 1e-3}


def make_memory(learning_rate=0.02, seed=3):
    return ReservoirModulator(**UNITS, learning_rate=learning_rate, seed=seed)


def test_a_window_gives_what_it_computes():
    xi = torch.randn(4)
    sample = Sample(torch.randn(3), torch.randn(2), xi)
    applied, state = WindowModulator()(sample, WindowModulator().initial_state(sample, torch.Generator()), xi)
    assert applied is xi
    assert state == ()


def test_a_working_memory_follows_its_equations():
    """Against loops over units, in float64."""
    memory = make_memory()
    xi, newest = torch.randn(2, dtype=torch.float64), torch.randn(6, dtype=torch.float64).split([3, 1, 2])
    sample = torch.cat(newest)
    state = memory.initial_state(Sample(*newest), torch.Generator())
    weights, readout = state.weights, 0.1 * torch.randn(2, 30, dtype=torch.float64)
    state = state._replace(u=0.3 * torch.randn_like(state.u), weights={**weights, "readout": readout})
    applied, after = memory(Sample(*newest), state, xi)

    r = [torch.tanh(u) for u in state.u]
    o = [sum(readout[k, j] * r[j] for j in range(30)) for k in range(2)]
    torch.testing.assert_close(applied, torch.stack(o))
    for i in range(30):
        drive = 1.2 * sum(weights["recurrent"][i, j] * r[j] for j in range(30))
        drive += sum(weights["input"][i, j] * sample[j] for j in range(6))
        drive += sum(weights["feedback"][i, k] * o[k] for k in range(2))
        torch.testing.assert_close(after.u[i], state.u[i] + 0.2 * (drive - state.u[i]))
    for k in range(2):
        for j in range(30):
            torch.testing.assert_close(after.weights["readout"][k, j], readout[k, j] - 0.02 * (o[k] - xi[k]) * r[j])


@pytest.mark.parametrize(
    "network",
    [
        mlp((7,), 3, (6, 4), torch.Generator().manual_seed(0)),
        lif_mlp((7,), 3, (6, 4), 5e-3, 1e-3, 1, torch.Generator().manual_seed(0)),
    ],
    ids=["mlp", "lif"],
)
def test_a_layer_receives_what_its_memory_was_taught(network):
    """Shown one window again and again, weights left alone, the readout settles on the signal of the window."""
    x, y = torch.randn(5, 7), torch.eye(3)[torch.arange(5) % 3]
    rule, taught = BioHSIC(2.0, SIGMAS, modulator=make_memory()), BioHSIC(2.0, SIGMAS)
    parameters = network.split_parameters()
    state = rule.initial_state(network, x, y, torch.Generator())
    plain = taught.initial_state(network, x, y, torch.Generator())
    for step in range(400):
        update = rule(network, parameters, state, x, y, rule.prepare(x, y))
        expected = taught(network, parameters, plain, x, y, taught.prepare(x, y))
        if step == 0:
            assert all(not gradient.any() for layer in update.gradients[:-1] for gradient in layer.values())
        state, plain = update.state, expected.state
    torch.testing.assert_close(update.gradients, expected.gradients, rtol=1e-2, atol=1e-5)
    assert any(gradient.abs().max() > 1e-3 for layer in update.gradients[:-1] for gradient in layer.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.1}, "modulator.learning_rate is 0.1 with modulator.nhidden 30"),
        ({"time_step": 1.0}, "time_step of a reservoir is 1.0 s and its time_constant 0.005 s"),
        ({"density": 0.0}, "density is 0.0; expected a probability"),
    ],
)
def test_a_memory_that_cannot_work_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        ReservoirModulator(**{**UNITS, "learning_rate": 0.02, "seed": 0, **options}).initial_state(
            Sample(torch.zeros(3), torch.zeros(1), torch.zeros(2)), torch.Generator()
        )
