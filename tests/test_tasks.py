"""From a config to what is trained and measured: rates, scores, a reservoir's samples, logged HSIC."""

import pytest
import torch
from tiny_runs import metrics
from torch.nn.functional import cross_entropy, one_hot

from projectlib.data import digits
from projectlib.hsic import hsic_bottleneck
from projectlib.sweeps.experiments import config_of
from projectlib.training.tasks import build_task, load_dataset


def task_of(script, *settings):
    return build_task(config_of(script, *settings), torch.device("cpu"), "eager")


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["optimizer.readout_lr=7e-3"], [("hidden", 1e-3), ("readout", 7e-3)]),
        (["optimizer.readout_lr=null"], [("hidden readout", 1e-3)]),
        (["optimizer.readout_lr=7e-3", "rule=frozen"], [("readout", 7e-3)]),
        (["optimizer.readout_lr=null", "rule=frozen"], [("readout", 1e-3)]),
    ],
)
def test_hidden_layers_and_readout_have_the_rates_that_were_asked_for(settings, parts):
    task = task_of("train-biohsic", "data=xor", "nmodels=2", "optimizer.lr=1e-3", *settings)
    *hidden, readout = [[*layer.values()] for layer in task.engine.ensemble.parameters]
    weights = {"hidden": [p for layer in hidden for p in layer], "readout": readout}
    found = [([*map(id, group["params"])], group["lr"]) for group in task.engine.optimizer.param_groups]
    assert found == [([id(p) for name in names.split() for p in weights[name]], rate) for names, rate in parts]


def test_every_score_is_that_of_the_predictions_of_all_samples():
    """In batches, the last of which is smaller."""
    settings = ("data=digits", "nmodels=2", "data.limit=300", "data.validation=0.4", "data.test_batchsize=50")
    task, dataset = task_of("train-biohsic", *settings), load_dataset(config_of("train-biohsic", *settings))
    scores, ensemble = task.evaluate(True), task.engine.ensemble
    splits = {"train_set": dataset.train, "validation": dataset.validation, "test": dataset.test}
    assert [len(split.labels) for split in splits.values()] == [180, 120, 360]
    assert scores.keys() == splits.keys()
    for name, (inputs, labels) in splits.items():
        for index in range(2):
            logits = ensemble.network.predict(ensemble.member(index), inputs)
            expected = cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()
            torch.testing.assert_close((scores[name]["loss"][index], scores[name]["accuracy"][index]), expected)
    assert task.evaluate(False).keys() == {"validation", "test"}


def test_a_reservoir_is_tested_on_other_samples_than_it_learns(monkeypatch):
    """On as many after them, all with activations uniform in [0, 1)."""
    num = 150
    task = task_of("train-reservoir", "data=digits", "model.nhidden=20", f"data.nsamples={num}")
    monkeypatch.setattr(task.engine, "score", lambda samples: samples)
    learnt, held_out, test = task.engine.samples, task.evaluate(False)["test"], digits().test
    for samples, start in ((learnt, 0), (held_out, num)):
        torch.testing.assert_close(samples.x, test.inputs[start : start + num].flatten(1), rtol=0, atol=0)
        torch.testing.assert_close(samples.y, one_hot(test.labels[start : start + num], 10).float(), rtol=0, atol=0)
        assert samples.z.shape == (num, 10)
        assert ((samples.z >= 0) & (samples.z < 1)).all()
        assert samples.z.mean().item() == pytest.approx(1 / 2, abs=0.03)
        assert samples.z.std().item() == pytest.approx(12**-0.5, abs=0.02)
    assert not torch.equal(learnt.z, held_out.z)


@pytest.mark.parametrize(("settings", "gamma"), [(["rule=frozen"], 3), (["rule=biohsic", "rule.gamma=5"], 5)])
def test_what_is_logged_is_the_objective_of_each_layer_in_the_window(script, tmp_path, settings, gamma):
    """Before the one update of an epoch of one window; of a rule that has an objective, its own."""
    sigmas = (0.3, 0.25, 2.0)
    one_window = ("data=xor", "nmodels=2", "data.batchsize=12", "data.limit=12", "training.nepochs=1", "engine=eager")
    logged = ("training.log_hsic=true", "hsic.gamma=3", f"hsic.sigmas={[*sigmas]}", *settings)
    assert script("train-biohsic", *one_window, *logged, f"hydra.run.dir={tmp_path / 'run'}").code == 0
    begun = task_of("train-biohsic", *one_window, *logged).engine
    x, y = begun.source.inputs, one_hot(begun.source.labels, 2).float()
    for index, row in enumerate(metrics(tmp_path / "run", epoch="1", split="train")):
        outputs, _ = begun.ensemble.network.run(begun.ensemble.member(index), ((),) * 3, x)
        for layer, z in enumerate(outputs):
            found = [float(row[f"{part}_layer{layer}"]) for part in ("hsic", "hsicx", "hsicy")]
            assert found == pytest.approx([*map(float, hsic_bottleneck(x, y, z, gamma, sigmas))], rel=1e-4)
