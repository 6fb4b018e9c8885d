"""The reservoir's engines: eager against a loop written out, the compiled one against eager."""

from copy import deepcopy

import made_up_engines
import numpy as np
import pytest
import torch

from projectlib.engines import choose_reservoir_engine
from projectlib.engines.cpu.kernels.reservoir import LANES, multiply, pack
from projectlib.engines.cpu.reservoir import CpuReservoirEngine
from projectlib.engines.eager_reservoir import ReservoirEngine, ReservoirSamples
from projectlib.ensemble import NOISE, build_ensemble, generator_of
from projectlib.errors import UserError
from projectlib.models import Reservoir
from projectlib.rules import Delta

WINDOW, TIME_STEPS, NUM_SAMPLES, ZDIM = 4, 5, 11, 3
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD([p], lr=1e-2, weight_decay=1e-2, fused=True),
    "adam": lambda p: torch.optim.Adam([p], lr=1e-3, eps=1e-5, fused=True),
    "adamw": lambda p: torch.optim.AdamW([p], lr=1e-3, eps=1e-5, weight_decay=1e-2, fused=True),
}
ENGINES = {"eager": ReservoirEngine, "compiled": CpuReservoirEngine}


def make_ensemble(num_models=2, noise=0.0, density=0.2):
    return build_ensemble(lambda g: Reservoir(10, ZDIM, 21, 1.2, density, 5e-3, 1e-3, noise, g), range(num_models))


def make_samples(seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (NUM_SAMPLES,), generator=generator)
    x, z = (torch.rand(NUM_SAMPLES, features, generator=generator) for features in (5, ZDIM))
    return ReservoirSamples(x, torch.eye(2)[labels], z)


def make_engine(engine_class, optimizer="sgd", **options):
    ensemble = make_ensemble(**options)
    optimizer, seeds = OPTIMIZERS[optimizer](ensemble.parameters[0]["readout"]), range(ensemble.num_models)
    return engine_class(ensemble, Delta(2.0, 0.5), optimizer, make_samples(), WINDOW, TIME_STEPS, seeds)


def train(engine, *ranges):
    """Windows of one epoch, cut into ranges; returns all that can differ."""
    return *made_up_engines.train(engine, *ranges), engine.traces(), engine.score(make_samples(seed=2))


WHOLE = (0, NUM_SAMPLES - WINDOW + 1)
EXACT = {"rtol": 0, "atol": 0}
FLOAT32 = {"rtol": 1e-4, "atol": 1e-6}


def test_weights_begin_as_they_are_said_to():
    """Bounds are about ten standard errors; the spectral radius is that of large n within a few 1 / sqrt(n)."""
    num, density, strength = 1000, 0.1, 1.2
    generator = torch.Generator().manual_seed(0)
    reservoir = Reservoir(30, 20, num, strength, density, 5e-3, 1e-3, 0.0, generator)
    weights = reservoir.split_parameters()[0]
    connections = weights["recurrent"][weights["recurrent"] != 0] * (density * num) ** 0.5
    assert len(connections) / num**2 == pytest.approx(density, abs=0.003)
    moments = [connections.pow(order).mean().item() for order in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.3)
    assert moments[:2] == pytest.approx([0, 1], abs=0.04)
    radius = torch.linalg.eigvals(reservoir.recurrent_strength * weights["recurrent"]).abs().max()
    assert radius.item() == pytest.approx(strength, rel=0.08)
    for name, width in (("input", 30), ("feedback", 20)):
        assert weights[name].shape == (num, width)
        assert 0.999 < weights[name].abs().max() <= 1
        assert weights[name].mean().item() == pytest.approx(0, abs=0.04)
        assert weights[name].std().item() == pytest.approx(3**-0.5, abs=0.02)
    assert weights["readout"].shape == (20, num)
    assert not weights["readout"].any()


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_eager_teaches_as_a_loop_written_out(noise):
    engine = make_engine(ReservoirEngine, num_models=1, noise=noise)
    epoch = engine.draw_epoch(torch.Generator().manual_seed(1))
    reservoir = make_ensemble(1, noise)
    weights, network, u = reservoir.member(0)[0], reservoir.network, torch.zeros(21)
    samples, rule, generator = make_samples(), Delta(2.0, 0.5), generator_of(0, NOISE)
    expected, targets = [], []

    def run_timesteps(u, readout, xi=None):
        errors = []
        draws = torch.randn(TIME_STEPS, 21 + ZDIM, generator=generator) if noise else torch.zeros(TIME_STEPS, 24)
        for r_noise, o_noise in (draw.split([21, ZDIM]) for draw in noise * draws):
            u, r, o = network.step({**weights, "readout": readout}, u, current, (r_noise, o_noise))
            errors.append(((o - xi_of_window) ** 2).mean())
            if xi is not None:
                readout = readout - 1e-2 * ((o - xi)[:, None] * r + 1e-2 * readout)
        return u, readout, sum(errors) / TIME_STEPS

    for step in range(*WHOLE):
        chosen = epoch.order[step : step + WINDOW]
        x, y, z = (a[chosen] for a in samples)
        xi_of_window = rule.target(x, y, z)
        current = weights["input"] @ torch.cat([x[-1], y[-1], z[-1]])
        start, untrained = u, weights["readout"]
        u, weights["readout"], loss = run_timesteps(u, untrained, xi_of_window)
        after = run_timesteps(u, weights["readout"])[2]
        before = run_timesteps(start, untrained)[2]
        expected.append(torch.stack([loss, after, before]))
        targets.append(xi_of_window)

    engine.begin_epoch()
    engine.run(epoch, *WHOLE)
    torch.testing.assert_close(engine.parameters["readout"][0], weights["readout"], **FLOAT32)
    torch.testing.assert_close(engine.u[0], u, **FLOAT32)
    loss, after, before = torch.stack(expected).mean(0).double() / torch.tensor(
        [1, *[torch.stack(targets).var(correction=0)] * 2]
    )
    found = engine.metrics()
    torch.testing.assert_close(
        torch.stack([*found.values()]).squeeze(1), torch.stack([loss, after, before]), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_compiled_equals_eager(optimizer, noise):
    eager, compiled = (train(make_engine(e, optimizer, noise=noise), WHOLE) for e in ENGINES.values())
    torch.testing.assert_close(compiled, eager, **FLOAT32)


@pytest.mark.parametrize("engine", ENGINES)
def test_results_do_not_depend_on_how_windows_are_cut(engine):
    whole, cut = (train(make_engine(ENGINES[engine], noise=0.1), *cuts) for cuts in ([WHOLE], [(0, 1), (1, 6), (6, 8)]))
    torch.testing.assert_close(cut, whole, **EXACT)


def test_compiled_goes_on_from_eager():
    first, second = (make_engine(e, "adam", noise=0.1) for e in ENGINES.values())
    train(first, (0, 3))
    second.score(make_samples())  # its own weights are packed and must not stay
    first.parameters["recurrent"] *= 0.5
    second.load_state_dict(deepcopy(first.state_dict()))
    second.compile()
    epoch = second.draw_epoch(torch.Generator().manual_seed(1))
    for engine in (first, second):
        engine.run(epoch, 3, 8)
    torch.testing.assert_close(second.state_dict(), first.state_dict(), **FLOAT32)


@pytest.mark.parametrize("engine", ENGINES)
def test_scores_leave_no_trace(engine):
    engine = make_engine(ENGINES[engine], "adam", noise=0.1)
    train(engine, (0, 5))
    before = [tensor.clone() for tensor in (engine.u, engine.parameters["readout"], engine.noise[0].get_state())]
    first, second = engine.score(make_samples(seed=3)), engine.score(make_samples(seed=3))
    torch.testing.assert_close(first, second, **EXACT)
    torch.testing.assert_close([engine.u, engine.parameters["readout"], engine.noise[0].get_state()], before, **EXACT)


@pytest.mark.parametrize("size", [1, LANES, 2 * LANES + 3])
def test_product_over_non_zeros(size):
    generator = np.random.default_rng(size)
    matrix = (generator.normal(size=(size, size)) * (generator.random((size, size)) < 0.3)).astype(np.float32)
    matrix[-1] = 0  # a row without any
    r, product = generator.normal(size=size).astype(np.float32), np.empty(-(-size // LANES) * LANES, np.float32)
    multiply(pack(matrix), r, product)
    np.testing.assert_allclose(product[:size], matrix @ r, rtol=1e-5, atol=1e-6)


def test_a_state_that_is_not_a_number_stays_so():
    engine = make_engine(CpuReservoirEngine)
    engine.u[1, 0] = torch.nan
    train(engine, (0, 2))
    assert engine.metrics()["loss"].isfinite().tolist() == [True, False]
    assert engine.first_bad_layer(0) is None
    assert engine.first_bad_layer(1) == "the readout"


@pytest.mark.parametrize("is_compiled", [False, True])
def test_auto_compiles_sparse_reservoirs_that_learn_for_long_or_are_compiled(is_compiled, monkeypatch):
    monkeypatch.setattr(CpuReservoirEngine, "is_compiled", lambda: is_compiled)

    def choose(name, num_updates=10**5, optimizer=OPTIMIZERS["sgd"], rule=None, **options):
        ensemble = make_ensemble(1, **options)
        rule, optimizer = rule or Delta(2.0, 0.5), optimizer(ensemble.parameters[0]["readout"])
        return choose_reservoir_engine(name, ensemble, rule, optimizer, num_updates)

    class SignDelta(Delta):
        """Has a gradient of its own."""

    assert choose("auto") is CpuReservoirEngine
    assert choose("auto", num_updates=100) is (CpuReservoirEngine if is_compiled else ReservoirEngine)
    assert choose("compiled", num_updates=100) is CpuReservoirEngine
    assert choose("eager") is ReservoirEngine
    assert choose("auto", density=0.9) is ReservoirEngine
    with pytest.raises(UserError, match="a reservoir of density"):
        choose("compiled", density=0.9)
    with pytest.raises(UserError, match="momentum="):
        choose("compiled", optimizer=lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9))
    with pytest.raises(UserError, match="cover SignDelta in place of Delta"):
        choose("compiled", rule=SignDelta(2.0, 0.5))
