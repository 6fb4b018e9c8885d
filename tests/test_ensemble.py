"""Many models at once are the same models one at a time."""

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from projectlib import ensemble as ensembles
from projectlib.ensemble import ACTIVATIONS, NOISE, RESERVOIR, STATE, build_ensemble, generator_of, over_members
from projectlib.models import cnn, lif_mlp, mlp
from projectlib.runs.checkpoint import checkpoint_files, load_checkpoint

SEEDS = (5, 6, 7)
FEW_STEPS = ("training.nepochs=1", "engine=eager", "data.seed=5")
TASKS = {
    "mlp": ("train-biohsic", "data=xor", "data.batchsize=6", "data.limit=20"),
    "hsic": ("train-biohsic", "data=xor", "data.batchsize=6", "data.limit=40", "rule=hsic"),
    "backprop": ("train-bp", "data=digits", "data.batchsize=6", "data.limit=40"),
    "cnn": ("train-biohsic", "data=digits", "model=cnn", "model.features=[3]", "data.limit=15"),
    "lif": ("train-lif-biohsic", "data=xor", "data.batchsize=6", "data.limit=10", "training.sample_timesteps=3"),
    "memory": (
        *("train-lif-biohsic", "data=xor", "data.batchsize=6", "data.limit=10", "training.sample_timesteps=3"),
        *("modulator=reservoir", "modulator.nhidden=20", "modulator.learning_rate=0.01"),
    ),
    "reservoir": ("train-reservoir", "data=xor", "model.nhidden=30", "data.nsamples=14", "model.noise=0.1"),
}


def trained_parameters(script, folder, task, *arguments):
    name, *settings = TASKS[task]
    ended = script(name, *settings, *FEW_STEPS, *arguments, f"hydra.run.dir={folder}")
    assert ended.code == 0, ended.output
    engine = load_checkpoint(checkpoint_files(folder / "checkpoints")[-1])["engine"]
    return {key: engine[key] for key in ("parameters", "state", "u") if key in engine}


@pytest.mark.parametrize("task", TASKS)
def test_a_member_is_a_run_of_one_model_with_its_seed(script, tmp_path, task):
    together = trained_parameters(script, tmp_path / "all", task, "seed=5", "nmodels=3")
    alone = trained_parameters(script, tmp_path / "last", task, f"seed={SEEDS[-1]}", "nmodels=1")
    torch.testing.assert_close(tree_map(lambda tensor: tensor[-1:], together), alone, rtol=1e-4, atol=1e-5)


def test_members_differ(script, tmp_path):
    first, second, third = trained_parameters(script, tmp_path / "all", "mlp", "seed=5", "nmodels=3")["parameters"][0][
        "affine.weight"
    ]
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


@pytest.mark.parametrize("task", ["mlp", "cnn", "lif"])
def test_batched_members_equal_members_in_turn(script, tmp_path, monkeypatch, task):
    """On a CPU small weights go through vmap, convolutions and large weights in a loop: the choice is one of speed."""
    results = []
    for folder, heavy in (("batched", False), ("in turn", True)):
        monkeypatch.setattr(ensembles, "is_heavy", lambda p, heavy=heavy: heavy)
        results.append(trained_parameters(script, tmp_path / folder, task, "seed=5", "nmodels=3"))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def make(name):
    if name == "cnn":
        return lambda generator: cnn((1, 8, 8), 3, (2, 4), generator)
    if name == "lif":
        return lambda generator: lif_mlp((64,), 3, (5, 4), 5e-3, 1e-3, 6, generator)
    return lambda generator: mlp((64,), 3, (5, 4), generator)


@pytest.mark.parametrize("name", ["mlp", "cnn", "lif"])
def test_members_start_and_predict_as_single_models(name):
    ensemble = build_ensemble(make(name), SEEDS)
    assert ensemble.num_models == 3
    x = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = ensemble.predict(x)
    for index, seed in enumerate(SEEDS):
        single = make(name)(torch.Generator().manual_seed(seed))
        assert all(
            torch.equal(p, q) for p, q in zip(tree_leaves(ensemble.member(index)), single.parameters(), strict=True)
        )
        torch.testing.assert_close(logits[index], single(x), rtol=1e-5, atol=1e-5)


def test_over_members_keeps_the_shape_of_results():
    stacked = torch.arange(6.0).view(3, 2)

    def function(row):
        return {"sum": row.sum(), "pair": (row, -row)}

    expected = {"sum": stacked.sum(1), "pair": (stacked, -stacked)}
    torch.testing.assert_close(over_members(function, stacked), expected)
    torch.testing.assert_close(over_members(function, stacked[:1]), tree_map(lambda a: a[:1], expected))


def test_a_member_s_state_is_drawn_from_its_own_weights():
    ensemble = build_ensemble(lambda generator: mlp((7,), 3, (5,), generator), SEEDS)
    (signs,) = ensemble.draw_state(lambda network, generator: (network.split_parameters()[0]["affine.weight"].sign(),))
    torch.testing.assert_close(signs, ensemble.parameters[0]["affine.weight"].sign(), rtol=0, atol=0)


STREAMS = STATE, NOISE, ACTIVATIONS, RESERVOIR


def test_what_a_member_draws_beside_its_weights_is_independent_of_them():
    """torch's generator keeps 32 bits of a seed: a stream that is added above them is the weights' own."""
    num = 5_000
    draws = [torch.Generator().manual_seed(42), *(generator_of(seed, s) for seed in (42, 43) for s in STREAMS)]
    numbers = torch.stack([torch.randn(num, generator=generator) for generator in draws])
    between = torch.corrcoef(numbers) - torch.eye(len(draws))
    assert between.abs().max() < 5 / num**0.5
    ensemble = build_ensemble(lambda generator: mlp((7,), 3, (5,), generator), [42])
    (drawn,) = ensemble.draw_state(lambda network, generator: (torch.randn(num, generator=generator),))
    torch.testing.assert_close(drawn[0], numbers[1], rtol=0, atol=0)
