"""Every script from the command line: tiny, on the CPU, without a download; and what it leaves in its run folder."""

import json
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import torch
from conftest import ROOT
from data_files import write_images
from omegaconf import OmegaConf
from PIL import Image
from tiny_runs import accuracies, metrics

import projectlib
from projectlib.runs import recorder
from projectlib.runs.checkpoint import checkpoint_files, load_checkpoint
from projectlib.runs.history import History
from projectlib.sweeps.experiments import plan

SCRIPTS = ("train-biohsic", "train-bp", "train-lif-biohsic", "train-reservoir")
TINY = ("training.nepochs=2", "data.limit=40", "engine=eager")
SMALL_RESERVOIR = ("data=digits", "model.nhidden=20", "data.nsamples=15", "data.ntimesteps=4")
LAYERS = 3  # of xor's models, readout included
HSIC = [f"{part}_layer{layer}" for layer in range(LAYERS) for part in ("hsic", "hsicx", "hsicy")]
SUMMARY = {
    *("status", "metrics", "best", "steps_per_second", "compile_seconds", "wall_seconds", "device", "versions"),
    *("seed", "nmodels", "numbers_kept", "commit"),
}


def settings(name):
    if name == "train-reservoir":
        return [*SMALL_RESERVOIR, "training.nepochs=2"]
    time_steps = ["training.sample_timesteps=3"] if name == "train-lif-biohsic" else []
    return ["data=xor", "data.batchsize=10", "nmodels=2", *TINY, *time_steps]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.draws
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_command_leaves_a_whole_run_folder_and_gives_the_same_metrics_again(script, tmp_path, name):
    ended = script(name, *settings(name))
    assert ended.code == 0, ended.output
    (folder,) = (tmp_path / "outputs" / name).glob("*/*")
    reservoir, nmodels = name == "train-reservoir", 1 if name == "train-reservoir" else 2
    assert str(folder.relative_to(tmp_path)) in ended.output

    rows = metrics(folder)
    hsic = HSIC if name == "train-lif-biohsic" else []
    numbers = ["loss", "nmse_after", "nmse_before"] if reservoir else ["loss", "accuracy", *hsic]
    assert [*rows[0]] == ["epoch", "split", "model", *numbers]
    assert {(row["epoch"], row["split"], row["model"]) for row in rows} == {
        (str(epoch), split, str(model))
        for epoch in range(3)
        for split in ("train" if epoch else "train_set", "test")
        for model in range(nmodels)
    }
    assert all(np.isfinite(float(row[key])) for row in rows for key in numbers if row[key] != "")

    told = summary(folder)
    assert told.keys() | {"commit"} == SUMMARY
    assert (told["status"], told["device"], told["nmodels"], told["seed"]) == ("finished", "cpu", nmodels, 42)
    assert told["steps_per_second"] > 0
    last = [float(row["loss"]) for row in rows if row["epoch"] == "2" and row["split"] == "test"]
    assert told["metrics"]["test"]["loss"]["mean"] == pytest.approx(np.mean(last))
    assert told["metrics"]["test"]["loss"]["sd"] == (None if reservoir else pytest.approx(np.std(last, ddof=1)))

    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["epoch-0001.pt", "epoch-0002.pt"]
    torch.load(folder / "checkpoints" / "epoch-0002.pt", weights_only=True)
    assert {path.name for path in (folder / ".hydra").iterdir()} == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    assert "epoch 2" in (folder / f"{name}.log").read_text()
    with Image.open(folder / "figures" / "learning-curve.png") as image:
        assert min(image.size) > 100
    assert (folder / "traces.npz").exists() == reservoir
    if reservoir:
        with np.load(folder / "traces.npz") as traces:
            assert traces["target"].shape == traces["output"].shape == (3, 15 - 10 + 1, 4, 10)
    assert not [*folder.glob("**/.*.partial")]

    for other, seed in (("again", 42), ("other", 1)):
        assert script(name, *settings(name), f"seed={seed}", f"hydra.run.dir={tmp_path / other}").code == 0
        same = (tmp_path / other / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()
        assert same == (seed == 42)


def test_a_run_leaves_the_arithmetic_of_its_process_as_it_was(script):
    assert script("train-biohsic", *settings("train-biohsic")).code == 0
    assert torch.tensor(1e-40) * 1 > 0, "subnormal numbers are still flushed to zero"


def test_help_is_useful_and_quick():
    """Without torch, whose import takes seconds."""
    code = (
        "import runpy, sys; sys.argv = ['train-biohsic.py', '--help']\n"
        "try: runpy.run_path('train-biohsic.py', run_name='__main__')\n"
        "finally: print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *shown, imported = ended.stdout.splitlines()
    text = "\n".join(shown)
    assert imported == "False"
    assert "data_model" not in text
    assert re.search("^model: cnn, divisive-mlp, linear, mlp$", text, re.MULTILINE)
    for part in ("--multirun", "resume=FOLDER", "evaluate=FOLDER", "rule: backprop, biohsic", "batchsize: 6", "75"):
        assert part in text


@pytest.mark.parametrize(
    ("name", "searches", "sweeps"),
    [
        ("train-biohsic", "baseline, digits, memory, mnist", "window"),
        ("train-bp", "backprop", None),
        ("train-lif-biohsic", "xor", None),
        ("train-reservoir", None, None),
    ],
)
def test_help_lists_the_searches_and_sweeps_of_a_script(script, name, searches, sweeps):
    choices, _ = script(name, "--help").output.split("Settings (KEY=VALUE)")
    listed = dict(re.findall("^(search|sweep): (.+)$", choices, re.MULTILINE))
    assert (listed.get("search"), listed.get("sweep")) == (searches, sweeps)


def test_what_is_shown_of_a_quick_experiment_is_what_its_run_has(script):
    run = next(run for run in plan("mnist", "quick") if run.name == "exact")
    shown = script(run.script, *run.words[1:], "--cfg", "job").output
    assert OmegaConf.create(shown) == run.config
    assert run.config.data.name == "digits"
    assert "data: digits" in script(run.script, *run.words[1:], "--info", "defaults-tree").output
    for words, name in ((run.words[1:], "digits"), (["experiment=xor"], "xor"), (["search=digits"], "digits")):
        assert f"\n  name: {name}\n" in script(run.script, *words, "--help").output


def test_an_installation_brings_its_configs_and_commands(tmp_path):
    """As a wheel has them: without a checkout around the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    ((ours, theirs),) = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].items()
    shutil.copytree(ROOT / "projectlib", tmp_path / "projectlib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ours, tmp_path / theirs)
    places = project["project"]["scripts"]
    assert {name: pkgutil.resolve_name(place).args for name, place in places.items()} == {
        "biohsic": ("train-biohsic",),
        "biohsic-bp": ("train-bp",),
        "biohsic-lif": ("train-lif-biohsic",),
        "biohsic-reservoir": ("train-reservoir",),
    }
    module, name = places["biohsic-lif"].split(":")
    code = f"import sys; sys.argv = ['biohsic-lif', '--help']; from {module} import {name}; {name}()"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("biohsic-lif [GROUP=CHOICE]")
    assert re.search("^model: .*lif-mlp", ended.stdout, re.MULTILINE)


@pytest.mark.parametrize("model", ["lif-mlp", "spiking-mlp"])
def test_batches_of_layers_with_a_state_are_all_of_one_size(script, tmp_path, model):
    """Also with a single time step: a state has as many places as a batch has samples."""
    words = [f"model={model}", "data=xor", "rule=backprop", "training.sample_timesteps=1", "data.batchsize=10"]
    ended = script("train-lif-biohsic", *words, "data.limit=25", "nmodels=1", "training.nepochs=1", "hydra.run.dir=run")
    assert ended.code == 0, ended.output
    (path,) = checkpoint_files(tmp_path / "run" / "checkpoints")
    assert load_checkpoint(path)["steps"] == 2


def test_a_run_goes_on_with_every_stream_closed(tmp_path):
    """As under a scheduler that gives none: what is printed must not get into a file that the run opened."""
    run = tmp_path / "run"
    words = [sys.executable, str(ROOT / "train-biohsic.py"), *settings("train-biohsic"), f"hydra.run.dir={run}"]
    code = subprocess.run(["sh", "-c", f"{shlex.join(words)} <&- >&- 2>&-"], cwd=tmp_path, check=False).returncode
    assert code == 0
    assert summary(run)["status"] == "finished"
    assert len(metrics(run)) == 3 * 2 * 2


CNN = ("data=digits", "model=cnn", "model.features=[3]")


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("train-biohsic", ["rule=hsic"]),
        ("train-biohsic", ["rule=frozen"]),
        ("train-biohsic", ["hsic.form=exact", "training.log_hsic=true"]),
        ("train-biohsic", ["model=linear"]),
        ("train-biohsic", [*CNN]),
        ("train-biohsic", [*CNN, "rule=hsic", "optimizer=sgd"]),
        ("train-bp", [*CNN, "optimizer=adam"]),
        ("train-bp", ["model=linear", "data=linear"]),
        ("train-lif-biohsic", ["data=linear", "rule=frozen"]),
        ("train-lif-biohsic", ["data=digits", "model.features=[4]"]),
        ("train-biohsic", ["data.validation=0.2", "checkpointing.rate=5"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_rules_and_models(script, tmp_path, name, overrides):
    ended = script(name, *settings(name), "nmodels=1", *overrides, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 0, ended.output
    splits = ["train", "validation", "test"] if "data.validation=0.2" in overrides else ["train", "test"]
    assert [row["split"] for row in metrics(tmp_path / "run")] == ["train_set", *splits[1:], *splits * 2]
    (*_, last) = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert last.name == "epoch-0002.pt"


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (["constant"], [1, 1, 1]),
        (["exponential", "lr_schedule.gamma=0.5"], [1, 0.5, 0.25]),
        (["piecewise", "lr_schedule.milestones=[1,2]"], [1, 0.1, 0.01]),
        (["cosine", "lr_schedule.T_max=4"], [1, (1 + 0.5**0.5) / 2, 0.5]),
        (["smooth-cosine"], [1, 0.5, 0]),
    ],
)
def test_rates_after_an_epoch(script, tmp_path, schedule, rates):
    overrides = [f"lr_schedule={schedule[0]}", *schedule[1:]]
    ended = script("train-bp", *settings("train-bp"), *overrides, "optimizer.lr=1", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 0, ended.output
    found = [
        torch.load(path, weights_only=True)["engine"]["optimizer"]["param_groups"][0]["lr"]
        for path in sorted((tmp_path / "run" / "checkpoints").iterdir())
    ]
    assert found == pytest.approx(rates[1:])


def test_a_sweep_has_a_folder_for_each_job(script, tmp_path):
    grid = ["data.batchsize=2,4", "seed=1,2"]
    ended = script("train-biohsic", "--multirun", "data=xor", "nmodels=1", *TINY, *grid)
    assert ended.code == 0, ended.output
    (sweep,) = (tmp_path / "multirun" / "train-biohsic").glob("20*/*")
    jobs = [summary(sweep / str(number)) for number in range(4)]
    assert [job["seed"] for job in jobs] == [1, 2, 1, 2]
    texts = {(sweep / str(number) / "metrics.csv").read_bytes() for number in range(4)}
    assert len(texts) == 4


def test_a_finished_run_is_loaded_and_scored(script, tmp_path):
    run = tmp_path / "run"
    arguments = ["data=digits", "nmodels=2", *TINY, f"hydra.run.dir={run}"]
    assert script("train-biohsic", *arguments).code == 0
    trained = projectlib.load(run)
    assert (trained.config.data.name, trained.input_shape, trained.num_classes) == ("digits", (1, 8, 8), 10)

    from projectlib.data import digits

    test = digits().test
    logits = trained.predict(test.inputs)
    assert logits.shape == (2, 360, 10)
    accuracy = (logits.argmax(-1) == test.labels).double().mean(1)
    last = accuracies(run)
    assert accuracy.tolist() == pytest.approx(last)
    ended = script("train-biohsic", f"evaluate={run}", "data=digits", f"hydra.run.dir={tmp_path / 'scores'}")
    assert ended.code == 0, ended.output
    scores = summary(tmp_path / "scores")
    assert (scores["status"], scores["evaluated"]) == ("evaluated", str(run))
    assert scores["metrics"]["test"]["accuracy"]["mean"] == pytest.approx(np.mean(last))
    assert f"test of digits: loss {summary(run)['metrics']['test']['loss']['mean']:.2f}" in ended.output


def test_a_run_is_scored_on_inputs_scaled_as_it_was_trained(script, tmp_path):
    """A memory's data are in [0, 1], and the command that scores it names no memory."""
    few = ("data=digits", "data.limit=300", "nmodels=1", "training.nepochs=1", "engine=eager")
    run = tmp_path / "run"
    assert script("train-biohsic", *few, "modulator=delta", f"hydra.run.dir={run}").code == 0
    ended = script("train-biohsic", "data=digits", f"evaluate={run}", f"hydra.run.dir={tmp_path / 'scores'}")
    assert "data.scale=unit, as the run was trained with" in ended.output
    scores = [summary(folder)["metrics"]["test"]["accuracy"]["mean"] for folder in (run, tmp_path / "scores")]
    assert scores[0] == pytest.approx(scores[1])


def test_a_reservoir_is_loaded(script, tmp_path):
    run = tmp_path / "run"
    assert script("train-reservoir", *settings("train-reservoir"), f"hydra.run.dir={run}").code == 0
    trained = projectlib.load(run)
    (parameters,) = trained.ensemble.member(0)
    u, r, o = trained.ensemble.network.step(parameters, torch.zeros(20), torch.ones(20))
    assert (u.shape, r.shape, o.shape) == ((20,), (20,), (10,))
    with pytest.raises(projectlib.errors.UserError, match="reservoir"):
        trained.predict(torch.zeros(1, 84))
    ended = script("train-reservoir", "data=digits", f"evaluate={run}")
    assert ended.code == 1
    assert "expected a network to score on digits" in ended.error


def test_tensorboard(script, tmp_path):
    arguments = [*settings("train-bp"), "logger=tensorboard", "training.log_interval=2"]
    assert script("train-bp", *arguments, f"hydra.run.dir={tmp_path / 'run'}").code == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"step/loss", "train/accuracy", "test/loss", "test/accuracy_sd"} <= {*events.Tags()["scalars"]}
    assert [event.step for event in events.Scalars("test/loss")] == [0, 1, 2]
    assert [event.step for event in events.Scalars("step/loss")] == [2, 4, 6, 8]


def test_a_log_tells_the_progress_and_counts_the_steps_of_the_run(script, tmp_path, monkeypatch):
    monkeypatch.setattr("projectlib.runs.recorder.LOG_EVERY", 0)
    arguments = ["data=digits", "data.limit=60", "nmodels=1", "engine=eager", "training.nepochs=2"]
    ended = script("train-biohsic", *arguments, "training.log_interval=40", f"hydra.run.dir={tmp_path / 'run'}")
    log = (tmp_path / "run" / "train-biohsic.log").read_text()  # 55 steps an epoch
    assert [step for step in ("step 40", "step 80", "step 95") if step in log] == ["step 40", "step 80"], ended.output
    assert re.search(r"after epoch 1 of 2, test accuracy [\d.]+ %, 100 % of the steps done, 00:00 left", log)


def test_wandb_offline(command, tmp_path):
    arguments = [*settings("train-bp"), "logger=wandb", f"hydra.run.dir={tmp_path / 'run'}"]
    ended = command("train-bp", *arguments, WANDB_MODE="offline")
    assert ended.code == 0, ended.output
    assert [*(tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")]
    ended = command("train-bp", f"resume={tmp_path / 'run'}", "training.nepochs=9", WANDB_MODE="offline")
    assert ended.code == 0, ended.output
    parts = [path.name for path in (tmp_path / "run" / "wandb").glob("offline-run-*")]
    assert len(parts) == 2
    assert len({name.split("-", 3)[3] for name in parts}) == 1, "it goes on as the same run"


def test_folders_of_images_with_any_name(script, tmp_path):
    root = tmp_path / "bilder für alle"
    write_images(root, ("größe", "a b"), num=6)
    run = tmp_path / "läufe und so"
    arguments = ["data=folder", f"data.root='{root}'", "data.shape=[1,8,8]", "data.batchsize=3", "nmodels=1"]
    ended = script("train-biohsic", *arguments, "training.nepochs=1", "engine=eager", f"hydra.run.dir='{run}'")
    assert ended.code == 0, ended.output
    assert summary(run)["status"] == "finished"


def test_the_best_epoch_is_the_earliest_with_the_best_mean():
    """The highest accuracy and the lowest loss and error, by split; of other metrics none is the better."""
    test = torch.tensor([[0.0, 0.25], [0.25, 0.75], [0.375, 0.625], [0.25, 0.5]])
    history = History()
    for epoch in range(4):
        for split, values in (("train", test[3 - epoch]), ("test", test[epoch])):
            history.add(epoch, split, {"accuracy": values, "loss": 1 - values, "spikes": values})
        history.add(epoch, "validation", {"nmse_after": torch.tensor([float(abs(epoch - 2))])})
    best = {
        split: {"mean": 0.5, "sd": pytest.approx(distance / 2**0.5), "epoch": 1}
        for split, distance in (("train", 0.25), ("test", 0.5))
    }
    assert history.best() == {
        **{split: {"accuracy": reached, "loss": reached} for split, reached in best.items()},
        "validation": {"nmse_after": {"mean": 0.0, "sd": None, "epoch": 2}},
    }


def test_a_commit_is_that_of_the_code(monkeypatch):
    """And not of a checkout that it is installed in."""
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert recorder.commit() == {"commit": head.stdout.strip()}
    monkeypatch.setattr(recorder, "__file__", str(ROOT / "tests" / "projectlib" / "runs" / "recorder.py"))
    assert recorder.commit() == {}


def test_all_that_is_required_is_pinned():
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = sum(project["optional-dependencies"].values(), project["dependencies"])
    assert {re.match(r"[\w.-]+", text)[0] for text in required} - {project["name"]} <= pinned
