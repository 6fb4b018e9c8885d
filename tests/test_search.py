"""The search: what it proposes, what it prunes, and what it survives.  Training is a function where it can be."""

import multiprocessing
import re
import shlex
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from tiny_runs import wait_for

from projectlib.cli.job import train
from projectlib.config.compose import CONFIGS, compose, without_hydra
from projectlib.config.validation import validate
from projectlib.errors import Diverged, Interrupted, UserError
from projectlib.runs.folder import read_summary
from projectlib.runs.loggers import PrintLogger
from projectlib.sweeps.jobs import settings_digest
from projectlib.sweeps.search import run_worker

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

NUM_EPOCHS = 3


def make_config(folder, **changes):
    settings = {"folder": str(folder), "trials": 9, "direction": "maximize", "worker": 0, "startup": 3, "heartbeat": 1}
    space = {"optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True}, "hsic.sigmas.1": {"low": 0.1, "high": 9.0}}
    return OmegaConf.create(
        {
            "objective": "validation/accuracy",
            "checkpointing": {"path": "checkpoints"},
            "optimizer": {"lr": 1e-3},
            "hsic": {"sigmas": [0.5, 1.0, 2.0]},
            "search": {**settings, "space": space, **changes},
        }
    )


def score(config):
    """Best at optimizer.lr = 0.1, whatever sigma is."""
    return 1 - abs(OmegaConf.select(config, "optimizer.lr") - 0.1)


def fake_train(config, folder, job_number, loggers):
    """Stands in for training: accuracy rises to ``score``; a bad learning rate is seen after the first epoch."""
    for epoch in range(NUM_EPOCHS + 1):
        for logger in loggers:
            logger.epoch(epoch, {"validation/accuracy": score(config) * epoch / NUM_EPOCHS})
    return score(config)


def slow_train(config, folder, job_number, loggers):
    (folder / "begun").touch()
    time.sleep(60)


def states(folder):
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{folder}/study.db")
    return [trial.state.name for trial in study.trials]


def test_a_search_beats_where_it_began_and_prunes(tmp_path):
    tried = []

    def noting_train(config, folder, *arguments):
        tried.append((config.optimizer.lr, config.hsic.sigmas[1], folder.name))
        return fake_train(config, folder, *arguments)

    config = make_config(tmp_path)
    best = run_worker(config, noting_train)
    assert tried[0] == (1e-3, 1.0, "0000"), "the settings it was given come first"
    assert best > score(config)
    found = states(tmp_path)
    assert {*found} == {"COMPLETE", "PRUNED"}
    assert len(found) == 9
    assert OmegaConf.load(tmp_path / "0000" / ".hydra" / "config.yaml").search is None


def test_a_first_setting_outside_the_space_is_drawn(tmp_path):
    """Of a key whose own value is no choice, or outside of its bounds; the others' own values come first."""
    tried = []

    def noting_train(config, folder, *arguments):
        tried.append((config.optimizer.lr, config.hsic.sigmas[0], config.hsic.sigmas[1]))
        return fake_train(config, folder, *arguments)

    space = {
        "optimizer.lr": {"low": 1e-2, "high": 1.0, "log": True},
        "hsic.sigmas.0": {"choices": [1.0, 2.0]},
        "hsic.sigmas.1": {"low": 0.1, "high": 9.0},
    }
    run_worker(make_config(tmp_path, space=space, trials=1), noting_train)
    assert tried[0][0] >= 1e-2
    assert tried[0][1] in (1.0, 2.0)
    assert tried[0][2] == 1.0


def test_workers_share_a_study_and_a_full_one_is_left_alone(tmp_path):
    run_worker(make_config(tmp_path, trials=3), fake_train)
    best = run_worker(make_config(tmp_path, trials=6, worker=1), fake_train)
    assert len(states(tmp_path)) == 6
    assert run_worker(make_config(tmp_path, trials=6), None) == best


def test_a_trial_whose_worker_is_killed_is_taken_up_in_its_folder(tmp_path):
    config = make_config(tmp_path, trials=2)
    worker = multiprocessing.get_context("fork").Process(target=run_worker, args=(config, slow_train))
    worker.start()
    wait_for(lambda: (tmp_path / "0000" / "begun").exists(), "a trial")
    with closing(sqlite3.connect(tmp_path / "study.db", timeout=60)) as study:
        wait_for(lambda: study.execute("SELECT 1 FROM trial_heartbeats").fetchone(), "a heartbeat")
        worker.kill()
        worker.join()
        study.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
        study.commit()
    folders = []

    def noting_train(config, folder, *arguments):
        folders.append((folder.name, config.optimizer.lr))
        return fake_train(config, folder, *arguments)

    run_worker(config, noting_train)
    assert ("0000", 1e-3) in folders
    assert sorted(states(tmp_path)) == ["COMPLETE", "COMPLETE", "FAIL"]


def test_a_trial_that_a_signal_stopped_keeps_its_values(tmp_path):
    rates = []

    def stopped_train(config, folder, *arguments):
        rates.append((folder.name, config.optimizer.lr))
        if folder.name == "0001" and len(rates) == 2:
            raise Interrupted("SIGTERM")
        return fake_train(config, folder, *arguments)

    config = make_config(tmp_path, trials=3)
    with pytest.raises(Interrupted):
        run_worker(config, stopped_train)
    run_worker(config, stopped_train)
    first, again = (rate for name, rate in rates if name == "0001")
    assert first == again


def test_a_search_without_a_finished_trial_says_so(tmp_path):
    def diverging_train(*arguments):
        raise Diverged("loss is nan")

    with pytest.raises(UserError, match="no trial of 2 in "):
        run_worker(make_config(tmp_path, trials=2), diverging_train)


def test_numbers_that_are_not_finite_are_a_bad_trial_and_a_mistake_ends_the_worker(tmp_path, caplog):
    def diverging_train(config, folder, *arguments):
        if config.optimizer.lr > 0.01:
            raise Diverged("loss is nan")
        return fake_train(config, folder, *arguments)

    run_worker(make_config(tmp_path / "a"), diverging_train)
    assert "PRUNED" in states(tmp_path / "a")

    def mistaken_train(*arguments):
        raise UserError("no such data")

    caplog.clear()
    with pytest.raises(UserError, match="no such data"):
        run_worker(make_config(tmp_path / "b"), mistaken_train)
    assert "no such data" not in caplog.text  # whoever called tells it


def test_a_study_of_other_settings_is_refused(tmp_path):
    run_worker(make_config(tmp_path, trials=1), fake_train)
    other = make_config(tmp_path, trials=2)
    other.hsic.sigmas = [1, 1, 1]
    with pytest.raises(UserError, match="search of other settings"):
        run_worker(other, fake_train)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"hsic.gama": {"low": 1, "high": 2}}, "search.space has 'hsic.gama'"),
        ({"optimizer.lr": {"low": 2.0, "high": 1.0}}, "is refused"),
        ({"optimizer.lr": {"lowest": 2.0}}, "is refused"),
        ({"optimizer.lr": {"low": 1e-3, "high": 1e-2, "choices": [1e-3]}}, "is refused"),
        ({"optimizer": {"lr": {"low": 1e-3, "high": 1e-2}}}, r"optimizer: .* is refused .*search.space=\{optimizer:"),
    ],
)
def test_a_space_that_cannot_be_searched_is_told(tmp_path, space, message):
    config = make_config(tmp_path)
    config.search.space = space
    with pytest.raises(UserError, match=message):
        run_worker(config, fake_train)
    assert not Path(config.search.folder, "study.db").exists(), "else it would be a search of other settings"


def test_settings_are_added_to_what_is_searched(script, tmp_path):
    tiny = ["data.limit=60", "training.nepochs=1", "nmodels=1", "engine=eager", "search.trials=1"]
    space = "+search.space={optimizer.betas.0:{choices:[0]},optimizer.readout_lr:{choices:[null]}}"
    ended = script("train-biohsic", "search=digits", *tiny, space, f"search.folder={tmp_path}")
    assert ended.code == 0, ended.output
    assert {"optimizer.betas=[0,0.99]", "optimizer.readout_lr=null"} <= set(ended.output.split())


@pytest.mark.parametrize(
    ("objective", "direction", "best"), [("validation/accuracy", "maximize", max), ("validation/loss", "minimize", min)]
)
def test_the_best_trial_is_told_as_it_would_be_typed(tmp_path, caplog, objective, direction, best):
    """A list as a whole, with what was not searched of it."""
    words, reached = ["search=digits", f"objective={objective}", f"search.direction={direction}"], {}

    def scored_train(config, folder, *arguments):
        value = score(config) if direction == "maximize" else 1 - score(config)
        reached[value] = config
        return value

    config = without_hydra(compose("train-biohsic", [*words, f"search.folder={tmp_path}", "search.trials=3"]))
    config.search.space = {
        "optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True},
        "hsic.sigmas.1": {"low": 0.1, "high": 9.0},
        "data.batchsize": {"low": 4, "high": 9},
        "hsic.form": {"choices": ["exact", "parzen"]},
        "training.log_hsic": {"choices": [True, False]},
    }
    caplog.set_level("INFO")
    assert run_worker(config, scored_train) == best(reached)
    value, folder, overrides = re.search(r"best objective ([\d.]+) in (\S+): (.*)", caplog.text).groups()
    assert value == f"{best(reached):.4f}"
    assert re.search(r"(^| )hsic\.sigmas=\[[\d.]+,[\d.]+,[\d.]+\]", overrides)
    typed = without_hydra(compose("train-biohsic", [*words, "search.folder=''", *shlex.split(overrides)]))
    trial = OmegaConf.load(Path(folder) / ".hydra" / "config.yaml")
    assert settings_digest(typed) == settings_digest(reached[best(reached)]) == settings_digest(trial)


def test_no_search_without_a_validation_split_or_on_the_test_set(tmp_path):
    def without_validation(config, folder, job_number, loggers):
        loggers[0].epoch(1, {"test/accuracy": 1.0})

    with pytest.raises(UserError, match=r"data\.validation"):
        run_worker(make_config(tmp_path), without_validation)
    config = without_hydra(compose("train-biohsic", ["data=digits", "objective=test/accuracy"]))
    with pytest.raises(UserError, match="never sees the test set"):
        validate(config)


@pytest.mark.parametrize(("objective", "direction"), [("validation/loss", "maximize"), ("train/accuracy", "minimize")])
def test_no_search_for_the_worst(tmp_path, objective, direction):
    config = make_config(tmp_path)
    config.objective, config.search.direction = objective, direction
    with pytest.raises(
        UserError, match=rf"search\.direction is '{direction}'; expected m\w+, with objective={objective}"
    ):
        run_worker(config, fake_train)


def test_a_search_says_what_it_needs(script, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "projectlib.sweeps.search", raising=False)
    ended = script("train-biohsic", "search=digits", f"hydra.run.dir={tmp_path / 'run'}")
    assert "search= needs the package optuna, which is not installed: pip install optuna" in ended.error


SEARCHES = {
    "backprop": ["train-bp"],
    "baseline": ["train-biohsic", "rule=local-classifier"],
    "memory": ["train-biohsic", "modulator=delta"],
    "xor": ["train-lif-biohsic", "modulator=delta"],
}
"""A script, and what is searched for, by the searches that need it."""


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIGS / "search").glob("*.yaml") if p.stem[0] != "_"))
def test_searches_hold_out_validation_samples(name):
    script, *chosen = SEARCHES.get(name, ["train-biohsic"])
    config = without_hydra(compose(script, [f"search={name}", *chosen]))
    assert config.search.script == script, "as in the command that the file opens with"
    assert f"# python {script}.py --multirun search={name}" in (CONFIGS / "search" / f"{name}.yaml").read_text()
    assert config.data.validation > 0
    assert config.data.name == (name if name in ("digits", "xor") else "mnist")
    for key, bounds in config.search.space.items():
        value = OmegaConf.select(config, key)
        if key != "optimizer.readout_lr" or value is not None:  # null: lr
            assert bounds.low <= value <= bounds.high, key


def test_a_real_search_is_resumed_where_it_was_interrupted(tmp_path, monkeypatch):
    tiny = ["data.limit=60", "training.nepochs=2", "nmodels=1", "engine=eager", "search.trials=2"]
    launched = compose("train-biohsic", ["search=digits", *tiny])
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(launched)
    config = without_hydra(launched)
    config.search.folder = str(tmp_path)

    def stop(self, epoch, metrics):
        if epoch == 1:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(PrintLogger, "epoch", stop)
        with pytest.raises(Interrupted):
            run_worker(config, train)
    assert read_summary(tmp_path / "0000")["status"] == "interrupted"
    best = run_worker(config, train)
    assert 0 <= best <= 1
    assert states(tmp_path) == ["FAIL", "COMPLETE", "COMPLETE"]
    runs = {path.name: read_summary(path)["status"] for path in tmp_path.glob("0*")}
    assert runs == {"0000": "finished", "0002": "finished"}
