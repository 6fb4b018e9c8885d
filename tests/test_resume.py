"""A run that was stopped and resumed ends as one that never was; what cannot be resumed is refused."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chaos import differences
from conftest import ROOT
from data_files import write_images
from omegaconf import OmegaConf
from tiny_runs import TINY, XOR, status, stopped_at, unfinish

import projectlib
from projectlib.cli.interrupts import Interrupts
from projectlib.engines.cpu.mlp import CpuEngine
from projectlib.runs.checkpoint import checkpoint_files, load_checkpoint, write_checkpoint
from projectlib.runs.files import locked
from projectlib.runs.folder import read_config
from projectlib.runs.recorder import Recorder
from projectlib.runs.resume import newest_unfinished
from projectlib.sweeps.jobs import note_finished


def compare_with_uninterrupted(script, tmp_path, name, *arguments, num_steps=40):
    """Run once through, and once stopped by a signal and resumed; both must end alike."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ended = script(name, *arguments, f"hydra.run.dir={whole}")
    assert ended.code == 0, ended.output
    with stopped_at(num_steps):
        stopped = script(name, *arguments, f"hydra.run.dir={broken}")
    assert stopped.code == 75, stopped.output
    assert status(broken) == "interrupted"
    assert load_checkpoint(checkpoint_files(broken / "checkpoints")[-1])["step"], "it was stopped between two epochs"
    assert f"resume={broken}" in stopped.output
    resumed = script(name, f"resume={broken}")
    assert resumed.code == 0, resumed.output
    assert status(broken) == "finished"
    assert differences(broken, whole) == []


RESERVOIR = ("train-reservoir", "data=xor", "model.nhidden=30", "data.nsamples=40", "data.ntimesteps=3")

MOMENTUM = ("optimizer=sgd", "optimizer.momentum=0.9")

SMOOTH = ("training.nepochs=9", "lr_schedule=smooth-cosine", "lr_schedule.parts=3")

PIECEWISE = ("lr_schedule=piecewise", "lr_schedule.milestones=[1,2]")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train-biohsic", "data=xor", "data.batchsize=6", "nmodels=2", "lr_schedule=cosine", "training.log_hsic=true"),
        ("train-biohsic", "data=xor", "data.batchsize=6", "nmodels=1", "rule=hsic", *SMOOTH),
        ("train-biohsic", "data=xor", "data.batchsize=6", "nmodels=2", "rule=frozen", *MOMENTUM, *PIECEWISE),
        (
            "train-bp",
            "data=digits",
            "model=linear",
            "nmodels=2",
            "data.batchsize=2",
            "optimizer=adam",
            "training.nepochs=9",
        ),
        ("train-biohsic", "data=digits", "model=cnn", "model.features=[2]", "nmodels=2", "lr_schedule=exponential"),
        ("train-lif-biohsic", "data=xor", "data.batchsize=6", "nmodels=2", "training.sample_timesteps=2", *MOMENTUM),
        ("train-biohsic", "data=xor", "data.batchsize=6", "nmodels=2", "modulator=reservoir", "modulator.nhidden=20"),
        (*RESERVOIR, "nmodels=2", "model.noise=0.1"),
    ],
    ids=" ".join,
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(script, tmp_path, arguments):
    name, *settings = arguments
    tiny = TINY[1:] if name == "train-reservoir" else TINY  # which has no data.limit
    compare_with_uninterrupted(script, tmp_path, name, *tiny, *settings)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train-biohsic", "data=xor", "data.batchsize=6", "nmodels=2", "training.log_hsic=true"),
        ("train-bp", "data=digits", "nmodels=1", "data.batchsize=2", "optimizer=sgd", "training.nepochs=9"),
        ("train-lif-biohsic", "data=xor", "data.batchsize=6", "nmodels=2", "training.sample_timesteps=3"),
        (*RESERVOIR, "nmodels=2", "model.noise=0.1"),
    ],
    ids=" ".join,
)
def test_compiled_runs_resume_too(script, tmp_path, arguments):
    name, *settings = arguments
    tiny = TINY[1:] if name == "train-reservoir" else TINY
    compare_with_uninterrupted(script, tmp_path, name, *tiny, "engine=compiled", *settings)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_run_under_auto_keeps_the_engine_that_it_began_with(script, tmp_path, monkeypatch, engine):
    """Whatever else has been compiled on the machine since, or no longer is."""
    monkeypatch.setattr(CpuEngine, "is_compiled", lambda layers, rule: engine == "compiled")
    with stopped_at(40):
        assert script(*XOR, "engine=auto", f"hydra.run.dir={tmp_path / 'run'}").code == 75
    monkeypatch.setattr(CpuEngine, "is_compiled", lambda layers, rule: engine == "eager")
    ended = script("train-biohsic", f"resume={tmp_path / 'run'}")
    assert f"engine {engine}, device cpu" in ended.output
    assert ended.code == 0, ended.output


def test_augmented_images_resume(script, tmp_path):
    write_images(tmp_path / "images", "abcdefghij", num=4)
    compare_with_uninterrupted(
        *(script, tmp_path, "train-biohsic", "data=cifar10", "data.layout=folder", "model=cnn"),
        *(f"data.root={tmp_path / 'images'}", "model.features=[2]", "nmodels=1", "training.nepochs=2", "engine=eager"),
    )


def test_a_run_is_resumed_where_data_is_elsewhere(script, tmp_path, monkeypatch):
    write_images(tmp_path / "here", num=4)
    monkeypatch.setenv("BIOHSIC_DATA", str(tmp_path / "here"))
    few = ("data=folder", "data.batchsize=2", "nmodels=1", "training.nepochs=1", "engine=eager")
    assert script("train-biohsic", *few, "hydra.run.dir=run").code == 0
    monkeypatch.setenv("BIOHSIC_DATA", str((tmp_path / "here").rename(tmp_path / "there")))
    ended = script("train-biohsic", "resume=run", "training.nepochs=2")
    assert ended.code == 0, ended.output


def test_checkpoints_inside_an_epoch_change_nothing(script, tmp_path):
    for folder, minutes in (("often", "1e-9"), ("never", "null")):
        assert script(*XOR, f"checkpointing.minutes={minutes}", f"hydra.run.dir={tmp_path / folder}").code == 0
    assert differences(tmp_path / "often", tmp_path / "never") == []
    names = [path.name for path in checkpoint_files(tmp_path / "often" / "checkpoints")]
    assert re.fullmatch(r"epoch-0003-step-000000\d\d\.pt", names[0])
    assert names[1:] == ["epoch-0003.pt"]


@pytest.fixture
def saved(monkeypatch):
    """The epochs of all checkpoints, none of which is written."""
    epochs = []
    save = lambda folder, content: epochs.append(content["epoch"])  # noqa: E731
    monkeypatch.setattr("projectlib.runs.recorder.save_checkpoint", save)
    return epochs


def test_every_so_many_epochs_and_the_last_are_checkpointed(script, saved):
    assert script(*XOR, "data.limit=12", "training.nepochs=5", "checkpointing.rate=2").code == 0
    assert saved == [2, 4, 5]


def test_a_checkpoint_is_due_so_many_minutes_after_the_last(tmp_path, saved, monkeypatch):
    def at(seconds):
        monkeypatch.setattr("time.monotonic", lambda: seconds)

    at(1000)
    recorder, due = Recorder(tmp_path, {"checkpointing": {"rate": 1, "minutes": 2}}, tmp_path, Interrupts()), {}
    for seconds in (1119, 1121, 1240, 1242):
        at(seconds)
        due[seconds] = recorder.after_chunk(1)
        if due[seconds]:
            recorder.save({"epoch": 1})
    assert due == {1119: False, 1121: True, 1240: False, 1242: True}


def test_a_finished_run_says_so(script, tiny_run):
    before = {path: path.stat().st_mtime_ns for path in tiny_run.glob("**/*")}
    ended = script("train-biohsic", f"resume={tiny_run}")
    assert ended.code == 0
    assert "finished" in ended.output
    assert {path: path.stat().st_mtime_ns for path in tiny_run.glob("**/*")} == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["resume=run"], "run is finished: nothing to resume"),
        (["--multirun", *XOR[1:], "sweep.skip_finished=true"], "skipped: finished in"),
    ],
)
def test_nothing_is_done_again_without_torch(tiny_run, tmp_path, monkeypatch, words, told):
    """Its import takes seconds."""
    monkeypatch.chdir(tmp_path)
    note_finished("train-biohsic", read_config(tiny_run), tiny_run)
    code = (
        f"import runpy, sys; sys.argv = {['train-biohsic.py', *words]}\n"
        f"try: runpy.run_path({str(ROOT / 'train-biohsic.py')!r}, run_name='__main__')\n"
        "finally: print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told in ended.stdout
    assert ended.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("training.nepochs=1", "training.nepochs is 1; expected at least 3"),
        ("device=cuda:99", "device is 'cuda:99'"),
        ("device=toaster", "device is 'toaster'"),
        ("checkpointing.rate=0", "checkpointing.rate is 0"),
        ("checkpointing.path=ck2", "checkpointing.path (now 'ck2', run 'checkpoints')"),
        ("logger._target_=os.system", "os.system"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_refused_change_leaves_the_run_as_it_was(script, tiny_run, change, part, finished):
    if not finished:
        unfinish(tiny_run)
    before = {path: path.read_bytes() for path in tiny_run.glob("**/*") if path.is_file() and path.suffix != ".log"}
    longer = [] if "nepochs" in change else ["training.nepochs=4"]
    assert part in script("train-biohsic", f"resume={tiny_run}", change, *longer).error
    after = {path: path.read_bytes() for path in tiny_run.glob("**/*") if path.is_file() and path.suffix != ".log"}
    for path, text in before.items():
        assert path.name == ".lock" or after[path] == text, path
    assert script("train-biohsic", f"resume={tiny_run}").code == 0
    assert not (tiny_run / "ck2").exists()


def test_a_sweep_is_not_resumed_by_name(script, tiny_run):
    assert "hydra.sweep.dir=FOLDER" in script("train-biohsic", "--multirun", f"resume={tiny_run}").error


def test_a_damaged_config_is_left_alone_by_auto(script, tmp_path):
    place = tmp_path / "outputs" / "train-biohsic" / "day" / "time" / ".hydra"
    place.mkdir(parents=True)
    for text in ("- a\n- list\n", "5", "a: ${b", "a: ${b}"):
        (place / "config.yaml").write_text(text)
        ended = script(*XOR, "training.nepochs=1", "resume=auto")
        assert ended.code == 0, ended.output
        assert "starting a new one" in ended.output


def test_a_longer_run_equals_one_that_was_long_from_the_start(script, tiny_run, tmp_path):
    long, extended = tmp_path / "long", ("training.nepochs=5", "logger=tensorboard", "checkpointing.rate=2")
    assert script(*XOR, "training.nepochs=5", f"hydra.run.dir={long}").code == 0
    assert script("train-biohsic", f"resume={tiny_run}", *extended).code == 0
    assert differences(tiny_run, long) == []
    assert (tiny_run / "tensorboard").is_dir()
    # what was changed is what the run's settings are from now on
    assert "nothing to resume" in script("train-biohsic", f"resume={tiny_run}").output
    assert projectlib.load(tiny_run).config.training.nepochs == 5


def test_fewer_epochs_than_are_done_are_refused(script, tiny_run):
    assert (
        "training.nepochs is 2; expected at least 3"
        in script("train-biohsic", f"resume={tiny_run}", "training.nepochs=2").error
    )


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["data.batchsize=7"], ["data.batchsize", "7", "6"]),
        (["data=digits"], ["data ", "digits", "xor"]),
        (["hsic.sigmas=[1,1,1]", "seed=43"], ["hsic.sigmas", "seed", "43", "42"]),
        (["model={features:[3]}"], ["model"]),
        (["engine=compiled"], ["engine", "compiled", "eager"]),
    ],
)
def test_changed_settings_are_refused_by_name(script, tiny_run, overrides, parts):
    unfinish(tiny_run)
    before = (tiny_run / "metrics.csv").read_bytes()
    ended = script("train-biohsic", f"resume={tiny_run}", *overrides)
    assert ended.code == 1
    assert all(part in ended.error for part in parts), ended.error
    assert (tiny_run / "metrics.csv").read_bytes() == before


def test_overrides_of_the_same_values_are_no_change(script, tiny_run):
    unfinish(tiny_run)
    same = [*XOR[1:], "data.seed=${seed}", "device=cpu"]
    assert script("train-biohsic", f"resume={tiny_run}", *same).code == 0
    assert status(tiny_run) == "finished"


def test_the_length_of_a_schedule_stays(script, tmp_path):
    folder = tmp_path / "run"
    assert script(*XOR, "lr_schedule=cosine", f"hydra.run.dir={folder}").code == 0
    assert "lr_schedule.T_max (now 5, run 3)" in script("train-biohsic", f"resume={folder}", "training.nepochs=5").error


def test_another_script_is_refused(script, tiny_run):
    assert "train-biohsic; expected one of train-bp" in script("train-bp", f"resume={tiny_run}").error


def test_auto_finds_the_newest_unfinished_run_of_the_same_config(script, tmp_path):
    with stopped_at(70):
        for seed in (1, 2, 1):
            assert script(*XOR, f"data.seed={seed}").code == 75
    folders = sorted((tmp_path / "outputs" / "train-biohsic").glob("*/*"))
    for expected in (folders[2], folders[0]):
        assert script(*XOR, "data.seed=1", "resume=auto").code == 0
        assert status(expected) == "finished"
    assert status(folders[1]) == "interrupted"
    ended = script(*XOR, "data.seed=1", "resume=auto")
    assert "starting a new one" in ended.output
    assert len([*(tmp_path / "outputs" / "train-biohsic").glob("*/*")]) == 4


def test_auto_goes_by_time_and_not_by_name(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with stopped_at(70):
        for name in ("mine", "2026-11-27"):
            assert script(*XOR, f"hydra.run.dir=outputs/train-biohsic/{name}").code == 75
    assert newest_unfinished("train-biohsic", [*XOR[1:]], None) == Path("outputs/train-biohsic/2026-11-27")


def test_auto_finds_a_run_of_another_length_only_where_one_is_asked_for(script, tmp_path, monkeypatch):
    with stopped_at(70):
        assert script(*XOR).code == 75
    (folder,) = (tmp_path / "outputs" / "train-biohsic").glob("*/*")
    monkeypatch.chdir(tmp_path)
    same = [word for word in XOR[1:] if not word.startswith("training.nepochs=")]
    found = {
        length: newest_unfinished("train-biohsic", [*same, *length], None) for length in ((), ("training.nepochs=5",))
    }
    assert found == {(): None, ("training.nepochs=5",): folder.relative_to(tmp_path)}
    with locked(folder):  # it is running
        assert newest_unfinished("train-biohsic", [*same, "training.nepochs=5"], None) is None


def test_a_finished_run_without_checkpoints_is_not_begun_again(script, tiny_run):
    shutil.rmtree(tiny_run / "checkpoints")
    before = (tiny_run / "metrics.csv").read_bytes()
    assert "holds a finished run" in script(*XOR, f"hydra.run.dir={tiny_run}").error
    assert (tiny_run / "metrics.csv").read_bytes() == before


def test_a_run_that_is_begun_again_has_the_settings_of_its_last_command(script, tmp_path):
    folder = tmp_path / "run"
    assert script(*XOR, "device=cuda:77", f"hydra.run.dir={folder}").code == 1
    assert script(*XOR, "training.nepochs=2", f"hydra.run.dir={folder}").code == 0
    assert OmegaConf.load(folder / ".hydra" / "config.yaml").training.nepochs == 2
    assert "nothing to resume" in script("train-biohsic", f"resume={folder}").output


def test_a_new_run_does_not_write_over_another(script, tiny_run):
    files = [tiny_run / name for name in ("metrics.csv", "summary.json", ".hydra/config.yaml", ".hydra/hydra.yaml")]
    before = [file.read_bytes() for file in files]
    assert f"resume={tiny_run}" in script(*XOR, f"hydra.run.dir={tiny_run}").error
    for other in (["seed=1"], ["training.time_stepp=0"], ["optimizer.lr=-1"]):
        assert script(*XOR, *other, f"hydra.run.dir={tiny_run}").code == 1
        assert [file.read_bytes() for file in files] == before
    assert "seed (now 1, run 42)" in script(*XOR, "seed=1", f"hydra.run.dir={tiny_run}").error


def test_a_folder_with_any_name_is_resumed(script, tmp_path):
    folder = tmp_path / "naïve ünï ' run = (1)"
    quoted = str(folder).replace("'", "\\'")
    with stopped_at(70):
        assert script(*XOR, f"hydra.run.dir='{quoted}'").code == 75
    ended = script("train-biohsic", f"resume={folder}")
    assert ended.code == 0, ended.output
    assert status(folder) == "finished"


def test_a_checkpoint_of_a_gpu_is_resumed_on_the_cpu(script, tiny_run):
    """How a device computes a step is not part of what is saved."""
    unfinish(tiny_run)
    newest = tiny_run / "checkpoints" / "epoch-0003.pt"
    content = load_checkpoint(newest)
    (group,) = content["engine"]["optimizer"]["param_groups"]
    group["capturable"] = True  # refused on a CPU
    group["lr"], schedule = torch.tensor(group["lr"]), content["schedule"]
    for name in ("base_lrs", "_last_lr"):
        schedule[name] = [torch.tensor(rate) for rate in schedule[name]]
    write_checkpoint(newest, {**content, "device": "cuda", "engine_name": "compiled"})
    ended = script("train-biohsic", f"resume={tiny_run}", "training.nepochs=4", "device=cpu")
    assert ended.code == 0, ended.output
    assert "engine eager" in ended.output
    assert load_checkpoint(checkpoint_files(tiny_run / "checkpoints")[-1])["epoch"] == 4
