"""Bad input: one line that names the value, what was expected and what to do; exit code 1; nothing half-made."""

import errno
import gc
import weakref

import pytest
import torch
from data_files import write_images

import projectlib.cli.job
from projectlib.errors import system_problem
from projectlib.runs.folder import missing_folders, read_summary, remove_unbegun

TINY = ("nmodels=1", "training.nepochs=1", "data.limit=20", "engine=eager")

WITHOUT = [f"~rule.{key}" for key in ("sigmas", "modulator", "accumulate", "readout_window")]  # what Delta has not


def refused(script, run_folder, name, *arguments):
    """The one line that a script refuses its arguments with."""
    ended = script(name, "nmodels=1", "training.nepochs=1", *arguments, f"hydra.run.dir='{run_folder}'")
    assert ended.code == 1, ended.output
    assert "Traceback" not in ended.output
    assert "unforeseen" not in ended.output
    assert not (run_folder / "metrics.csv").exists()
    assert not [*run_folder.glob("**/*.pt")]
    assert run_folder.exists() == (f"resume={run_folder}" in ended.error)
    return ended.error


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["must specify 'data'", "digits"]),
        (["data=nosuch"], ["nosuch", "digits", "mnist"]),
        (["data=digits", "model=nosuch"], ["model/nosuch", "cnn", "mlp"]),
        (["data=digits", "rule=nosuch"], ["rule/nosuch", "biohsic"]),
        (["data=digits", "data.batchsiz=3"], ["data.batchsiz"]),
        (["data=digits", "nosuch=3"], ["nosuch"]),
        (["data=digits", "nmodel=3"], ["nmodel is no setting", "nmodels"]),
        (["data=digits", "+nmodel=3"], ["+nmodel=3 would have no effect"]),
        (["data=digits", "+hsic.gama=3"], ["+hsic.gama=3 would have no effect"]),
        (["data=digits", "hsic={gama:3}"], ["hsic.gama is no setting", "hsic.gamma"]),
        (["data=digits", "+search.space={seed:{choices:[1]}}"], ["+search.space", "would have no effect"]),
        (["search=digits", "search.space={seed:{choices:[1]}}"], ["search.space.seed", "expected +search.space="]),
        (["data=digits", "modulator._target_=3"], ["modulator._target_ is 3; expected text"]),
        (["data=digits", "~modulator._target_"], ["modulator", "expected null, or a modulator"]),
        (["data=digits", "~objective"], ["objective is None", "train/ or validation/"]),
        (["data=digits", "optimizer.eps=1" + 400 * "0"], ["optimizer.eps", "a number of at least 0"]),
        (["data=digits", f"data.test_batchsize={2**63}"], ["data.test_batchsize", "a whole number of at least 1"]),
        (["data=digits", "checkpointing.path='\0'"], ["checkpointing.path", "expected a folder"]),
        (["data=digits", "seed=a b("], ["quotes within quotes"]),
        (["data=digits", "rule=frozen", "modulator=reservoir"], ["ReservoirModulator", "Frozen", "modulator=window"]),
        (["data=digits", "seed=a=b="], ["mismatched input", "quotes within quotes"]),
        (["data=digits", "seed=${nosuch}"], ["nosuch"]),
        (["data=digits", "modulator=remembered", "modulator.sigmas=1"], ["modulator.sigmas is 1; expected three"]),
        (["data=digits", "hsic.form=other"], ["hsic.form", "'other'", "published", "exact"]),
        (["data=digits", "data.batchsize=1"], ["data.batchsize", "1", "at least 2"]),
        (["data=digits", "rule=hsic", "data.batchsize=1"], ["data.batchsize", "at least 2"]),
        (["data=digits", "data.batchsize=2000"], ["data.batchsize", "2000", "1437 training"]),
        (["data=digits", "data.limit=0"], ["data.limit", "0", "1437"]),
        (["data=digits", "data.limit=5000"], ["data.limit", "5000", "1437"]),
        (["data=digits", "data.validation=1"], ["data.validation", "1", "fraction"]),
        (["data=digits", "hsic.sigmas=[0.5,0,1]"], ["hsic.sigmas", "[0.5, 0, 1]", "1e-15"]),
        (["data=digits", "hsic.sigmas=[0.5,1]"], ["hsic.sigmas", "[0.5, 1]", "three"]),
        (["data=digits", "hsic.gamma=.nan"], ["hsic.gamma", "nan"]),
        (["data=digits", "optimizer.lr=0"], ["optimizer.lr", "0", "above 0"]),
        (["data=digits", "optimizer.lr=-1e-3"], ["optimizer.lr", "-0.001"]),
        (["data=digits", "optimizer.lr=abc"], ["optimizer.lr", "'abc'"]),
        (["data=digits", "optimizer.betas=[1.5,0.9]"], ["AdamW", "1.5"]),
        (["data=digits", "+optimizer.nosuch=1"], ["nosuch"]),
        (["data=digits", "lr_schedule=exponential", "lr_schedule.gamma=-1"], ["lr_schedule.gamma", "-1"]),
        (["data=digits", "lr_schedule=piecewise", "lr_schedule.milestones=[1.5]"], ["lr_schedule.milestones", "1.5"]),
        (["data=digits", "nmodels=0"], ["nmodels", "0", "at least 1"]),
        (["data=digits", "nmodels=1.5"], ["nmodels", "1.5", "whole number"]),
        (["data=digits", "seed=-1"], ["seed", "-1"]),
        (["data=digits", "engine=fast"], ["engine", "'fast'", "eager"]),
        (["data=digits", "model.features=[10,0]"], ["model.features", "[10, 0]"]),
        (["data=digits", "model.features=10"], ["model.features", "10"]),
        (["data=digits", "training.nepochs=0"], ["training.nepochs", "0"]),
        (["data=digits", "checkpointing.rate=0"], ["checkpointing.rate", "0"]),
        (["data=digits", "checkpointing.minutes=-1"], ["checkpointing.minutes", "-1"]),
        (["data=digits", "device=cuda:99"], ["device", "cuda:99", "device=cpu"]),
        (["data=digits", "device=toaster"], ["device", "toaster", "device=cpu"]),
        (["data=xor", "model=cnn"], ["model=cnn", "(2,)", "model=mlp"]),
        (["data=digits", "model=cnn", "model.features=[4,4,4,4]"], ["8x8", "at most 3"]),
        (["data=digits", "model=cnn", "modulator=reservoir"], ["(8, 8, 16)", "modulator=window"]),
        (["data=digits", "modulator=reservoir", "modulator.nhidden=0"], ["modulator.nhidden", "0"]),
        (["data=digits", "model=reservoir"], ["model.time_step", "training.time_step"]),
        (
            ["data=digits", "rule._target_=projectlib.rules.Delta", "+rule.sigma=1", *WITHOUT],
            ["rule=biohsic"],
        ),
        (["data=digits", "rule=delta"], ["sigma"]),
        (["data=digits", "evaluate=/nosuch"], ["/nosuch", "no run folder"]),
        (["data=digits", "resume=/nosuch"], ["/nosuch", "no run folder"]),
        (["data=folder", "data.shape=[1,8,8]", "data.root=/nosuch"], ["/nosuch/train", "data.root"]),
        (["data=mnist", "data.root=/proc/nosuch"], ["/proc/nosuch", "data=digits", "train-images-idx3-ubyte"]),
        (["data=folder"], ["no folder data/train", "data.root"]),
        (["data=0.5"], ["data is 0.5", "digits"]),
        (["data=[1,2,3]"], ["data is [1, 2, 3]", "digits"]),
        (["data=digits", "model=[[1]]"], ["model is [[1]]", "mlp"]),
        (["data=digits", "logger=null"], ["logger is None", "print"]),
        (["data=digits", "task=0"], ["task is 0", "reservoir"]),
        (["data=digits", "checkpointing=null"], ["checkpointing is None", "table"]),
        (["data=digits", "checkpointing.path=5"], ["checkpointing.path is 5", "folder"]),
        (["data=digits", "evaluate=0.5"], ["evaluate is 0.5", "run folder"]),
        (["data=digits", "training=null"], ["training is None"]),
        (["data=digits", "lr_schedule=[]"], ["lr_schedule"]),
        (["data=digits", "data.source=null"], ["data.source is None"]),
        (["data=digits", "seed=false"], ["seed is False"]),
        (["data=digits", "seed='${seed}'"], ["Recursive"]),
        (["data=digits", "+=+$"], ["no key"]),
        (["data=digits", "data.root=x"], ["data.root", "other choices"]),
        (["data=digits", "nmodels=1000000000"], ["1000000000 models of 17,226 weights", "GB to be trained, of "]),
        (["data=digits", "model.features=[1000000000]"], ["64,000,000,000 weights", "1,024.0 GB"]),
        (["data=digits", "--experimental-rerun=x"], ["--experimental-rerun"]),
        (["data=digits", "hydra.mode=MULTIRUN"], ["hydra.mode", "--multirun"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_network_refuses(script, tmp_path, monkeypatch, arguments, parts):
    monkeypatch.setattr("projectlib.training.allocation.total_memory", lambda device: 1e11)
    error = refused(script, tmp_path / "run", "train-biohsic", *arguments)
    assert all(part in error for part in parts), error


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["model.time_constant=0"], ["model.time_constant", "0", "above 0"]),
        (["training.time_step=-1e-3"], ["training.time_step", "-0.001"]),
        (["training.time_step=1"], ["training.time_step", "1", "time_constant"]),
        (["training.sample_timesteps=0"], ["training.sample_timesteps", "0"]),
    ],
)
def test_lif_refuses(script, tmp_path, arguments, parts):
    error = refused(script, tmp_path / "run", "train-lif-biohsic", "data=xor", *arguments)
    assert all(part in error for part in parts), error


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["hsic.sigma=-1"], ["hsic.sigma", "-1"]),
        (["data.batchsize=1"], ["data.batchsize", "1", "at least 2"]),
        (["data.nsamples=1000"], ["data.nsamples", "1000", "360"]),
        (["data.nsamples=5"], ["data.batchsize", "10", "5"]),
        (["data.limit=5"], ["data.limit", "5", "data.nsamples"]),
        (["data.nsamples=10", "data.zdim=1"], ["data.nsamples", "data.zdim=1", "variance"]),
        (["model.density=0"], ["density", "0"]),
        (["model.noise=-1"], ["noise is -1"]),
        (["engine=compiled", "model.density=0.9"], ["density 0.9", "engine=auto"]),
        (["model=mlp"], ["num_inputs", "projectlib.models.mlp"]),
        (["rule=biohsic"], ["rule.sigmas"]),
    ],
)
def test_a_reservoir_refuses(script, tmp_path, arguments, parts):
    error = refused(script, tmp_path / "run", "train-reservoir", "data=digits", *arguments)
    assert all(part in error for part in parts), error


def test_checkpoints_that_cannot_be_written_are_told_before_training(script, tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "checkpoints"
    error = refused(script, tmp_path / "run", "train-biohsic", "data=xor", f"checkpointing.path={path}")
    assert "cannot write" in error
    assert "checkpointing.path" in error


def test_what_the_system_refuses_is_named(script, tmp_path, monkeypatch):
    def fail(config, *arguments):
        raise OSError(errno.EMFILE, "Too many open files", "/data/x")

    monkeypatch.setattr("projectlib.cli.job.build_task", fail)
    error = refused(script, tmp_path / "run", "train-biohsic", "data=xor")
    assert "/data/x: Too many open files; then go on from" in error
    assert "make room" not in error
    assert "cannot write" not in error
    assert system_problem(OSError(errno.ENOSPC, "No space left on device"), "run") == (
        "run: No space left on device; make room"
    )


@pytest.mark.parametrize("words", [["nmodels=0"], ["modulator=remembered", "modulator.size=0"]], ids=" ".join)
def test_a_mistake_leaves_no_folder_that_it_made(script, tmp_path, words):
    assert script("train-biohsic", "data=digits", *words).code == 1
    assert not [*tmp_path.iterdir()]
    (tmp_path / "outputs").mkdir()
    assert script("train-biohsic", "data=digits", *words, "hydra.run.dir=outputs/a/b").code == 1
    assert not [*(tmp_path / "outputs").iterdir()]


def test_a_mistake_leaves_what_was_there(script, tmp_path):
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "notes.log").write_text("mine")
    for name in ("empty", "full"):
        assert script("train-biohsic", "data=digits", "nmodels=0", f"hydra.run.dir={name}").code == 1
        assert read_summary(tmp_path / name)["status"] == "failed"
    assert (tmp_path / "full" / "notes.log").read_text() == "mine"


def test_only_a_folder_without_anything_else_is_removed(tmp_path):
    made = missing_folders(str(tmp_path / "above" / "run"))
    assert made == (tmp_path / "above" / "run", tmp_path / "above")
    (made[0] / ".hydra").mkdir(parents=True)
    (made[0] / "checkpoints").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.log").touch()
    ours, link = made[0] / ".hydra" / "config.yaml", made[0] / "linked.log"
    for path in (ours, made[0] / ".lock", made[0] / "train-bp.log"):
        path.touch()
    for target in (tmp_path / "other" / "x.log", tmp_path / "other"):
        link.symlink_to(target)
        assert not remove_unbegun(made)
        link.unlink()
    for more in ("metrics.csv", "checkpoints/epoch-0001.pt", ".owner"):
        (made[0] / more).touch()
        assert not remove_unbegun(made)
        (made[0] / more).unlink()
    assert ours.exists()
    assert not missing_folders(str(made[0]))
    assert not remove_unbegun(())
    assert remove_unbegun(made)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert (tmp_path / "other" / "x.log").exists()


def test_an_unforeseen_error_leaves_its_traceback(script, tmp_path, monkeypatch):
    def fail(config, *arguments):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("projectlib.cli.job.build_task", fail)
    assert script("train-biohsic", "data=xor", "hydra.run.dir=run").code == 1
    assert read_summary(tmp_path / "run")["status"] == "failed"
    assert "Traceback" in (tmp_path / "run" / "train-biohsic.log").read_text()


def test_a_full_gpu_is_told_in_one_line(script, tmp_path, monkeypatch):
    def fail(config, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 1.00 GiB.")

    monkeypatch.setattr("projectlib.cli.job.build_task", fail)
    ended = script("train-biohsic", "data=xor", "hydra.run.dir=run")
    assert ended.code == 1
    assert "CUDA out of memory; expected fewer models" in ended.error
    assert read_summary(tmp_path / "run")["status"] == "failed"


def test_a_root_of_data_that_is_not_there_is_not_made(script, tmp_path):
    error = refused(script, tmp_path / "run", "train-biohsic", "data=mnist", f"data.root={tmp_path / 'nope'}")
    assert "is no folder" in error
    assert not (tmp_path / "nope").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train-bp", ["hsic.gamma=5"]),
        ("train-biohsic", ["rule=frozen", "hsic.form=exact"]),
        ("train-biohsic", ["rule=frozen", "training.log_hsic=true", "hsic.form=exact"]),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(script, tmp_path, name, words):
    assert f"{words[-1]} has no effect with rule=" in refused(script, tmp_path / "run", name, "data=xor", *words)


def test_what_is_only_measured_may_be_set(script, tmp_path):
    words = ["data=xor", "rule=frozen", "training.log_hsic=true", "hsic.gamma=3", "data.batchsize=6", *TINY]
    assert script("train-biohsic", *words, f"hydra.run.dir={tmp_path / 'run'}").code == 0


def test_an_interrupted_evaluation_says_so(script, run_folder, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("projectlib.cli.job.load_dataset", stop)
    assert "stopped before all was scored" in script("train-biohsic", f"evaluate={run_folder}", "data=xor").output


def test_an_unreadable_image_is_named(script, tmp_path):
    write_images(tmp_path / "images", num=4)
    (tmp_path / "images" / "train" / "dog" / "2.png").write_bytes(b"not an image")
    arguments = ["data=folder", "data.shape=[1,8,8]", f"data.root={tmp_path / 'images'}"]
    error = refused(script, tmp_path / "run", "train-biohsic", *arguments, "data.batchsize=2")
    assert "dog/2.png" in error


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_diverging_run_names_member_epoch_step_and_layer(script, tmp_path, engine):
    arguments = ["data=digits", "nmodels=2", "data.limit=60", "training.nepochs=3", f"engine={engine}"]
    ended = script("train-bp", *arguments, "optimizer=sgd", "optimizer.lr=1e30", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1
    for part in ("model 0", "epoch 1", "step 10", "layer 0", "optimizer.lr"):
        assert part in ended.error
    assert not [*tmp_path.glob("run/**/*.pt")]
    assert {line.split(",")[0] for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()} == {
        "epoch",
        "0",
    }
    assert '"failed"' in (tmp_path / "run" / "summary.json").read_text()


def test_evaluation_on_other_data_is_refused(script, tmp_path):
    run = tmp_path / "run"
    assert script("train-biohsic", "data=digits", *TINY, f"hydra.run.dir={run}").code == 0
    ended = script("train-biohsic", f"evaluate={run}", "data=xor", f"hydra.run.dir={tmp_path / 'other'}")
    assert ended.code == 1
    assert "(1, 8, 8)" in ended.error
    assert "(2,)" in ended.error


def test_one_bad_job_leaves_the_others_of_a_sweep_alone(script, tmp_path):
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    ended = script("train-biohsic", "--multirun", "data=digits", "data.batchsize=1,2", *TINY, sweep)
    assert ended.code == 1
    assert "data.batchsize" in ended.error
    assert not (tmp_path / "sweep" / "0" / "metrics.csv").exists()
    assert read_summary(tmp_path / "sweep" / "0")["status"] == "failed", "a row of the sweep says why"
    assert (tmp_path / "sweep" / "1" / "metrics.csv").exists()


def test_a_failed_job_leaves_no_engine_behind(script, tmp_path, monkeypatch):
    """Else each would hold the memory of a GPU until the sweep ends."""
    engines, build_task = [], projectlib.cli.job.build_task

    def watched(*arguments):
        gc.collect()
        assert not any(engine() for engine in engines)
        task = build_task(*arguments)
        engines.append(weakref.ref(task.engine))
        return task

    monkeypatch.setattr(projectlib.cli.job, "build_task", watched)
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    ended = script("train-bp", "--multirun", "data=digits", *TINY, "optimizer=sgd", "optimizer.lr=1e30,1e31", sweep)
    assert ended.code == 1
    assert [read_summary(tmp_path / "sweep" / job)["status"] for job in "01"] == ["failed", "failed"]
    assert len(engines) == 2
