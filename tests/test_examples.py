"""The examples are what the documentation teaches: short, and right."""

from pathlib import Path

import direct_feedback_alignment
import eligibility_trace
import prototypes
import pytest
import spiking_layer
import torch
import two_moons
from torch.nn.functional import cross_entropy, one_hot

import projectlib
from projectlib.data import Sampler
from projectlib.engines import EagerEngine
from projectlib.ensemble import build_ensemble
from projectlib.errors import UserError
from projectlib.models import mlp
from projectlib.modulators import Sample
from projectlib.rules import BioHSIC, Frozen, HiddenUpdate, LocalRule
from projectlib.rules.rule import own_kernel

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("direct_feedback_alignment", "eligibility_trace", "prototypes", "spiking_layer", "two_moons")
SIGMAS = (0.5, 0.3, 1.0)


def window(num=6, num_features=5, num_classes=3):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num) % num_classes
    x = torch.randn(num, num_features, dtype=torch.float64, generator=generator)
    return x, labels, one_hot(labels, num_classes).double()


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_one_short_file_and_one_yaml(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 60
    assert len([*(EXAMPLES / "configs").glob(f"*/{name}.yaml")]) == 1


def test_feedback_alignment_sends_the_error_through_its_own_matrix():
    """Against automatic differentiation of a surrogate: z . (B e), with B and e constant."""
    network = mlp((5,), 3, (4,), torch.Generator().manual_seed(1)).double()
    x, labels, y = window()
    rule, parameters = direct_feedback_alignment.DirectFeedbackAlignment(), network.split_parameters()
    state = rule.initial_state(network, x, y, torch.Generator().manual_seed(2))
    update = rule(network, parameters, state, x, y, rule.prepare(x, y))

    z = network.layers[0](x)
    logits = network.layers[1](z)
    loss = cross_entropy(logits, labels)
    (error,) = torch.autograd.grad(loss, logits, retain_graph=True)
    surrogate = (z * (error @ state.rule[0].T)).sum()
    expected = torch.autograd.grad(surrogate, [*network.layers[0].parameters()], retain_graph=True)
    torch.testing.assert_close([*update.gradients[0].values()], [*expected], rtol=1e-9, atol=1e-12)
    expected = torch.autograd.grad(loss, [*network.layers[1].parameters()])
    torch.testing.assert_close([*update.gradients[1].values()], [*expected], rtol=1e-9, atol=1e-12)


def test_every_member_draws_a_matrix_of_its_own_that_its_seed_names():
    def draw(seeds):
        ensemble = build_ensemble(lambda generator: mlp((5,), 3, (4,), generator), seeds)
        rule, x, y = direct_feedback_alignment.DirectFeedbackAlignment(), torch.zeros(6, 5), torch.zeros(6, 3)
        return ensemble.draw_state(lambda network, generator: rule.initial_state(network, x, y, generator)).rule[0]

    three, last = draw([7, 8, 9]), draw([9])
    assert three.shape == (3, 4, 3)
    assert not torch.equal(three[0], three[1])
    assert torch.equal(three[2], last[0])


def test_a_trace_is_the_running_mean_of_what_the_rule_would_do():
    network = mlp((5,), 3, (4, 4), torch.Generator().manual_seed(1)).double()
    x, _, y = window()
    traced, plain = eligibility_trace.EligibilityTrace(0.8, gamma=2.0, sigmas=SIGMAS), BioHSIC(2.0, SIGMAS)
    parameters = network.split_parameters()
    state = traced.initial_state(network, x, y, torch.Generator())
    expected = 0.0
    for step in range(4):
        shifted = x + step
        update = traced(network, parameters, state, shifted, y, traced.prepare(shifted, y))
        start = plain.initial_state(network, x, y, torch.Generator())
        gradient = plain(network, parameters, start, shifted, y, plain.prepare(shifted, y)).gradients[1]
        expected = 0.8 * expected + 0.2 * gradient["affine.weight"]
        torch.testing.assert_close(update.gradients[1]["affine.weight"], expected)
        state = update.state
    assert own_kernel(traced) is None  # compiled code for BioHSIC would leave the trace out
    with pytest.raises(UserError, match=r"rule.decay is 1.5; expected"):
        eligibility_trace.EligibilityTrace(1.5)


def test_prototypes_supply_the_gradient_of_a_gaussian_of_each_class():
    """Against automatic differentiation of Bayes' rule over normal densities; the prototypes against their weights."""
    generator, rate, sigma = torch.Generator().manual_seed(3), 0.3, 0.6
    z, labels = torch.randn(9, 4, dtype=torch.float64, generator=generator), [0, 1, 0, 1, 1, 0, 2, 1, 2]
    memory, zeros = prototypes.Prototypes(rate, sigma), torch.zeros(4, dtype=torch.float64)
    state = memory.initial_state(Sample(zeros, zeros[:3], zeros), torch.Generator())
    for step, label in enumerate(labels):
        xi, state = memory(Sample(zeros, one_hot(torch.tensor(label), 3).double(), z[step]), state, None)
        before = {c: [t for t in range(step) if labels[t] == c] for c in range(3)}
        seen = [c for c in range(3) if before[c]]
        if label not in seen:
            assert not xi.any()
            continue
        newest = z[step].clone().requires_grad_()
        densities = []
        for c in seen:
            mean = sum(rate * (1 - rate) ** age * z[t] for age, t in enumerate(reversed(before[c])))
            densities.append(torch.distributions.Normal(mean, sigma * 2).log_prob(newest).sum())  # sqrt(d) is 2
        (expected,) = torch.autograd.grad(-densities[seen.index(label)] + torch.stack(densities).logsumexp(0), newest)
        torch.testing.assert_close(xi, expected, rtol=1e-9, atol=1e-12)
    samples = Sample(z, one_hot(torch.tensor(labels), 3).double(), z)
    means = torch.stack([z[torch.tensor(labels) == c].mean(0) for c in range(3)])
    expected = cross_entropy(-torch.cdist(z, means).square() / (2 * sigma**2 * 4), torch.tensor(labels))
    torch.testing.assert_close(memory.objective(samples), expected)
    assert memory.of_classes(state).shape == (3, 4)
    with pytest.raises(UserError, match=r"modulator.rate is 2 and modulator.sigma 1; expected"):
        prototypes.Prototypes(2, 1)


@pytest.mark.parametrize("ignored", ["data.batchsize=6", "hsic.gamma=3"])
def test_what_prototypes_do_not_read_is_refused(script, ignored):
    own = (f"--config-dir={EXAMPLES / 'configs'}", "plugins=[prototypes]", "modulator=prototypes")
    error = script("train-biohsic", *own, "data=digits", ignored).error
    assert f"{ignored} has no effect with modulator=prototypes" in error


def test_a_spiking_layer_fires_at_the_analytic_interval():
    """A constant drive I charges v = I (1 - (1 - a)^n), which passes 1 after log(1 - 1/I) / log(1 - a) steps."""
    layer = spiking_layer.SpikingLayer(1, 1, 0.1, torch.Generator()).double()
    with torch.no_grad():
        layer.affine.weight.fill_(1.5)
    u, steps = layer.initial_state(1), 0
    while steps < 1000:
        before = u.v
        _, u = layer(torch.ones(1, 1, dtype=torch.float64), u)
        steps += 1
        if u.v < before:
            break
    assert steps == 11  # ceil(log(1/3) / log(0.9)) = ceil(10.43)


def test_a_rule_takes_a_state_that_is_a_tuple_place_by_place():
    """The window's past is run without its newest place: every field of a tuple loses it."""
    generator = torch.Generator().manual_seed(0)
    network = spiking_layer.spiking((5,), 3, (4,), 0.5, generator=generator, num_timesteps=1).double()
    x, _, y = window()
    rule, frozen, parameters = BioHSIC(2.0, SIGMAS), Frozen(), network.split_parameters()
    state = rule.initial_state(network, x, y, torch.Generator())
    start = state._replace(
        layers=(spiking_layer.Spiking(torch.rand(6, 4).double(), torch.rand(6, 4).double()), *state.layers[1:])
    )
    update = rule(network, parameters, start, x, y, rule.prepare(x, y))
    whole = frozen(network, parameters, start, x, y, frozen.prepare(x, y))
    assert isinstance(update.state.layers[0], spiking_layer.Spiking)
    torch.testing.assert_close(update.state.layers, whole.state.layers)
    torch.testing.assert_close(update.outputs, whole.outputs)


def test_two_moons_are_two_classes_of_points():
    dataset = two_moons.two_moons(0.1, 0)
    assert dataset.input_shape == (2,)
    assert dataset.num_classes == 2
    assert abs(dataset.train.labels.double().mean().item() - 0.5) < 0.05


class Noisy(LocalRule):
    """Draws while it runs, which it may not."""

    def update_hidden(self, hidden, memory, context):
        z, u, pull_back = hidden.pullback()
        return HiddenUpdate(pull_back(torch.randn_like(z)), z, u, memory)


def test_a_rule_that_draws_while_it_runs_is_told_in_one_line():
    dataset = two_moons.two_moons(0.1, 0)
    ensemble = build_ensemble(lambda g: mlp((2,), 2, (4,), g), range(2))
    optimizer = torch.optim.SGD([p for layer in ensemble.parameters for p in layer.values()], lr=0.1)
    engine = EagerEngine(ensemble, Noisy(), optimizer, dataset, Sampler(900, 4, sliding=True))
    with pytest.raises(UserError, match="Noisy cannot run for many models at once") as caught:
        engine.run(engine.draw_epoch(torch.Generator()), 0, 1)
    assert "\n" not in str(caught.value)


OURS = (f"--config-dir={EXAMPLES / 'configs'}", "nmodels=2", "data.limit=60", "training.nepochs=2", "engine=eager")
COMMANDS = {
    "direct_feedback_alignment": ("train-biohsic", "rule=direct_feedback_alignment", "data=digits"),
    "eligibility_trace": ("train-biohsic", "rule=eligibility_trace", "data=digits"),
    "prototypes": ("train-biohsic", "modulator=prototypes", "data=digits", "training.log_memory=true"),
    "spiking_layer": (
        *("train-lif-biohsic", "model=spiking_layer", "data=xor", "data.batchsize=10"),
        *("training.sample_timesteps=3", "training.log_hsic=false"),
    ),
    "two_moons": ("train-biohsic", "data=two_moons"),
}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_from_outside_and_is_resumed_as_if_it_had_not_stopped(script, tmp_path, name):
    """One epoch and then another, its state from the checkpoint, against two in one go."""
    config, *options = COMMANDS[name]
    arguments = [*OURS, f"plugins=[{name}]", *options]
    assert script(config, *arguments, "hydra.run.dir=whole").code == 0
    assert script(config, *arguments, "training.nepochs=1", "hydra.run.dir=parts").code == 0
    resumed = script(config, OURS[0], f"plugins=[{name}]", "training.nepochs=2", "resume=parts")
    assert resumed.code == 0, resumed.output
    assert (tmp_path / "parts" / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_what_is_kept_beside_a_memory_is_not_taken_for_it(script):
    """The trace: arrays are kept without those of the memory, and its cosine cannot be logged."""
    words = (*OURS, "plugins=[eligibility_trace]", "rule=eligibility_trace", "modulator=delta", "data=digits")
    ended = script("train-biohsic", *words, "training.log_arrays=[0,1]", "hydra.run.dir=run")
    assert ended.code == 0, ended.output
    assert "no hidden layer has a memory" in script("train-biohsic", *words, "training.log_memory=true").error


def test_examples_in_a_sweep_of_workers(command, tmp_path):
    """joblib's workers are processes of their own, which import the plugin too."""
    config, *options = COMMANDS["direct_feedback_alignment"]
    ended = command(
        *(config, "--multirun", *OURS, "plugins=[direct_feedback_alignment]", *options, "rule.scale=1.0,0.5"),
        *("training.nepochs=1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep"),
    )
    assert ended.code == 0, ended.output
    assert all((tmp_path / "sweep" / job / "summary.json").exists() for job in "01")


def test_an_example_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ("plugins=[eligibility_trace]", "rule=eligibility_trace", "data=digits")
    run = projectlib.train("train-biohsic", *settings, *OURS[1:], config_dir=EXAMPLES / "configs")
    assert run.metrics["epoch"].max() == 2
    assert run.predict(torch.zeros(3, 1, 8, 8)).shape == (2, 3, 10)
