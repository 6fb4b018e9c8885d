"""A run that was stopped and resumed ends as one that never was; what cannot be resumed is refused."""

import errno
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from chaos import differences
from conftest import ROOT, scripts_in_this_process, start
from filelock import FileLock
from omegaconf import OmegaConf

import projectlib
from projectlib.errors import UserError
from projectlib.runs.checkpoint import checkpoint_files, load_checkpoint, write_checkpoint
from projectlib.runs.files import locked, write_text
from projectlib.runs.recorder import Recorder
from projectlib.runs.resume import newest_unfinished

TINY = ("data.limit=36", "training.nepochs=3", "engine=eager")
XOR = ("train-biohsic", "data=xor", "nmodels=1", "data.batchsize=6", *TINY)


@contextmanager
def stopped_at(num_steps, number=signal.SIGTERM, times=1):
    """Within it, every run sends its process a real signal once it has done so many steps."""
    after_chunk = Recorder.after_chunk

    def count(self, steps):
        before = self.__dict__.setdefault("counted", 0)
        self.counted += steps
        if before < num_steps <= self.counted:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return after_chunk(self, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "after_chunk", count)
        yield


def status(folder):
    return json.loads((folder / "summary.json").read_text())["status"]


def compare_with_uninterrupted(script, tmp_path, name, *arguments, num_steps=40):
    """Run once through, and once stopped by a signal and resumed; both must end alike."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ended = script(name, *arguments, f"hydra.run.dir={whole}")
    assert ended.code == 0, ended.output
    with stopped_at(num_steps):
        stopped = script(name, *arguments, f"hydra.run.dir={broken}")
    assert stopped.code == 75, stopped.output
    assert status(broken) == "interrupted"
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
            "data.batchsize=7",
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
        ("train-bp", "data=digits", "nmodels=1", "data.batchsize=7", "optimizer=sgd", "training.nepochs=9"),
        ("train-lif-biohsic", "data=xor", "data.batchsize=6", "nmodels=2", "training.sample_timesteps=3"),
        (*RESERVOIR, "nmodels=2", "model.noise=0.1"),
    ],
    ids=" ".join,
)
def test_compiled_runs_resume_too(script, tmp_path, arguments):
    name, *settings = arguments
    tiny = TINY[1:] if name == "train-reservoir" else TINY
    compare_with_uninterrupted(script, tmp_path, name, *tiny, "engine=compiled", *settings)


def test_augmented_images_resume(script, tmp_path):
    from test_errors import write_images

    write_images(tmp_path / "images", classes="abcdefghij", num=4)
    compare_with_uninterrupted(
        *(script, tmp_path, "train-biohsic", "data=cifar10", "data.layout=folder", "model=cnn"),
        *(f"data.root={tmp_path / 'images'}", "model.features=[2]", "nmodels=1", "training.nepochs=2", "engine=eager"),
    )


def test_a_run_is_resumed_where_data_is_elsewhere(script, tmp_path, monkeypatch):
    from test_errors import write_images

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


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A finished run of three epochs."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with scripts_in_this_process(folder.parent) as run:
        assert run(*XOR, f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture
def run_folder(finished_run, tmp_path):
    """A copy of it that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def unfinish(folder, status="interrupted"):
    write_text(folder / "summary.json", json.dumps({"status": status}))


def test_a_finished_run_says_so(script, run_folder):
    before = {path: path.stat().st_mtime_ns for path in run_folder.glob("**/*")}
    ended = script("train-biohsic", f"resume={run_folder}")
    assert ended.code == 0
    assert "finished" in ended.output
    assert {path: path.stat().st_mtime_ns for path in run_folder.glob("**/*")} == before


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
def test_a_refused_change_leaves_the_run_as_it_was(script, run_folder, change, part, finished):
    if not finished:
        unfinish(run_folder)
    before = {path: path.read_bytes() for path in run_folder.glob("**/*") if path.is_file() and path.suffix != ".log"}
    longer = [] if "nepochs" in change else ["training.nepochs=4"]
    assert part in script("train-biohsic", f"resume={run_folder}", change, *longer).error
    after = {path: path.read_bytes() for path in run_folder.glob("**/*") if path.is_file() and path.suffix != ".log"}
    for path, text in before.items():
        assert path.name == ".lock" or after[path] == text, path
    assert script("train-biohsic", f"resume={run_folder}").code == 0
    assert not (run_folder / "ck2").exists()


def test_a_finished_run_stays_finished(script, run_folder):
    before = (run_folder / "summary.json").read_bytes()
    for change in ("training.nepochs=0", "device=cuda:99", "checkpointing.rate=0", "plugins=[nosuch]"):
        assert script(*XOR, change, f"hydra.run.dir={run_folder}").code == 1
        assert (run_folder / "summary.json").read_bytes() == before, change


def test_a_sweep_is_not_resumed_by_name(script, run_folder):
    assert "hydra.sweep.dir=FOLDER" in script("train-biohsic", "--multirun", f"resume={run_folder}").error


def test_a_damaged_config_is_left_alone_by_auto(script, tmp_path):
    place = tmp_path / "outputs" / "train-biohsic" / "day" / "time" / ".hydra"
    place.mkdir(parents=True)
    for text in ("- a\n- list\n", "5", "a: ${b", "a: ${b}"):
        (place / "config.yaml").write_text(text)
        ended = script(*XOR, "training.nepochs=1", "resume=auto")
        assert ended.code == 0, ended.output
        assert "starting a new one" in ended.output


def test_a_longer_run_equals_one_that_was_long_from_the_start(script, run_folder, tmp_path):
    long, extended = tmp_path / "long", ("training.nepochs=5", "logger=tensorboard", "checkpointing.rate=2")
    assert script(*XOR, "training.nepochs=5", f"hydra.run.dir={long}").code == 0
    assert script("train-biohsic", f"resume={run_folder}", *extended).code == 0
    assert differences(run_folder, long) == []
    assert (run_folder / "tensorboard").is_dir()
    # what was changed is what the run's settings are from now on
    assert "nothing to resume" in script("train-biohsic", f"resume={run_folder}").output
    assert projectlib.load(run_folder).config.training.nepochs == 5


def test_fewer_epochs_than_are_done_are_refused(script, run_folder):
    assert (
        "training.nepochs is 2; expected at least 3"
        in script("train-biohsic", f"resume={run_folder}", "training.nepochs=2").error
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
def test_changed_settings_are_refused_by_name(script, run_folder, overrides, parts):
    unfinish(run_folder)
    before = (run_folder / "metrics.csv").read_bytes()
    ended = script("train-biohsic", f"resume={run_folder}", *overrides)
    assert ended.code == 1
    assert all(part in ended.error for part in parts), ended.error
    assert (run_folder / "metrics.csv").read_bytes() == before


def test_overrides_of_the_same_values_are_no_change(script, run_folder):
    unfinish(run_folder)
    same = [*XOR[1:], "data.seed=${seed}", "device=cpu"]
    assert script("train-biohsic", f"resume={run_folder}", *same).code == 0
    assert status(run_folder) == "finished"


def test_the_length_of_a_schedule_stays(script, tmp_path):
    folder = tmp_path / "run"
    assert script(*XOR, "lr_schedule=cosine", f"hydra.run.dir={folder}").code == 0
    assert "lr_schedule.T_max (now 5, run 3)" in script("train-biohsic", f"resume={folder}", "training.nepochs=5").error


def test_another_script_is_refused(script, run_folder):
    assert "train-biohsic; expected one of train-bp" in script("train-bp", f"resume={run_folder}").error


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


def test_a_finished_run_without_checkpoints_is_not_begun_again(script, run_folder):
    shutil.rmtree(run_folder / "checkpoints")
    before = (run_folder / "metrics.csv").read_bytes()
    assert "holds a finished run" in script(*XOR, f"hydra.run.dir={run_folder}").error
    assert (run_folder / "metrics.csv").read_bytes() == before


def test_a_run_that_is_begun_again_has_the_settings_of_its_last_command(script, tmp_path):
    folder = tmp_path / "run"
    assert script(*XOR, "device=cuda:77", f"hydra.run.dir={folder}").code == 1
    assert script(*XOR, "training.nepochs=2", f"hydra.run.dir={folder}").code == 0
    assert OmegaConf.load(folder / ".hydra" / "config.yaml").training.nepochs == 2
    assert "nothing to resume" in script("train-biohsic", f"resume={folder}").output


def test_without_a_complete_checkpoint_a_run_starts_over_in_place(script, run_folder, tmp_path):
    unfinish(run_folder)
    wanted = (run_folder / "metrics.csv").read_bytes()
    for path in checkpoint_files(run_folder / "checkpoints"):
        path.write_bytes(path.read_bytes()[:100])
    (run_folder / "checkpoints" / ".epoch-0002.pt.partial").write_bytes(b"stale")
    (run_folder / ".metrics.csv.partial").write_bytes(b"stale")
    ended = script("train-biohsic", f"resume={run_folder}")
    assert ended.code == 0
    assert "starting over in place" in ended.output
    assert (run_folder / "metrics.csv").read_bytes() == wanted
    assert [path.name for path in checkpoint_files(run_folder / "checkpoints")] == ["epoch-0002.pt", "epoch-0003.pt"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: bytes(len(data)),
        lambda data: data[:-30],
        lambda data: data[:4000] + bytes([data[4000] ^ 1]) + data[4001:],  # inside a tensor: only its checksum tells
    ],
    ids=["empty", "cut", "zeros", "cut at its end", "one bit"],
)
def test_a_torn_checkpoint_falls_back_to_the_one_before(script, run_folder, damage):
    unfinish(run_folder)
    wanted = (run_folder / "metrics.csv").read_bytes()
    newest = run_folder / "checkpoints" / "epoch-0003.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    ended = script("train-biohsic", f"resume={run_folder}")
    assert ended.code == 0, ended.output
    assert "falling back to the one before" in ended.output
    assert (run_folder / "metrics.csv").read_bytes() == wanted
    load_checkpoint(newest)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("archived", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(script, run_folder, tmp_path, archived):
    unfinish(run_folder)
    sprung, newest = tmp_path / "sprung", run_folder / "checkpoints" / "epoch-0003.pt"
    if archived:
        torch.save({**load_checkpoint(newest), "random": Trap(sprung)}, newest)
    else:
        newest.write_bytes(pickle.dumps(Trap(sprung)))
    for arguments in ([f"resume={run_folder}"], ["data=xor", f"evaluate={run_folder}"]):
        ended = script("train-biohsic", *arguments)
        assert ended.code == 1
        assert "nothing in it was run" in ended.error
    assert not sprung.exists()


def test_a_checkpoint_of_another_run_is_refused(script, run_folder, tmp_path):
    unfinish(run_folder)
    other = tmp_path / "other"
    assert script(*XOR, "model.features=[3]", f"hydra.run.dir={other}").code == 0
    newest = run_folder / "checkpoints" / "epoch-0003.pt"
    newest.write_bytes((other / "checkpoints" / "epoch-0003.pt").read_bytes())
    error = script("train-biohsic", f"resume={run_folder}").error
    assert "model.features (now [10, 4], run [3])" in error


@pytest.mark.parametrize("change", ["shape", "name", "missing"])
def test_a_checkpoint_of_another_model_is_refused(script, run_folder, change):
    unfinish(run_folder)
    newest = run_folder / "checkpoints" / "epoch-0003.pt"
    content = load_checkpoint(newest)
    layer = content["engine"]["parameters"][0]
    if change == "shape":
        layer["affine.weight"] = layer["affine.weight"][:, :3]
    elif change == "name":
        layer["other"] = layer.pop("affine.weight")
    else:
        del content["engine"]
    write_checkpoint(newest, content)
    ended = script("train-biohsic", f"resume={run_folder}")
    assert ended.code == 1
    assert {"shape": "(1, 3, 2)", "name": "other", "missing": "lacks engine"}[change] in ended.error
    with pytest.raises(UserError, match=r"other|lacks|shape"):
        projectlib.load(run_folder)


def test_edited_metrics_are_refused(script, run_folder):
    unfinish(run_folder)
    path = run_folder / "metrics.csv"
    honest = path.read_text()
    rows = honest.splitlines()
    fields = rows[2].split(",")
    path.write_text("\n".join([*rows[:2], ",".join([*fields[:-1], "0.99"]), *rows[3:]]) + "\n")
    error = script("train-biohsic", f"resume={run_folder}").error
    assert "metrics.csv" in error
    assert "changed since" in error
    path.write_text(honest[:-40])
    assert "metrics.csv" in script("train-biohsic", f"resume={run_folder}").error
    path.unlink()
    assert script("train-biohsic", f"resume={run_folder}").code == 0
    assert path.read_text() == honest


def test_edited_settings_are_refused(script, run_folder):
    unfinish(run_folder)
    path = run_folder / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("lr: 0.0001", "lr: 0.1"))
    assert "optimizer.lr (now 0.1, run 0.0001)" in script("train-biohsic", f"resume={run_folder}").error
    path.write_text("seed: [")
    assert "config.yaml cannot be read" in script("train-biohsic", f"resume={run_folder}").error


def test_a_new_run_does_not_write_over_another(script, run_folder):
    files = [run_folder / name for name in ("metrics.csv", "summary.json", ".hydra/config.yaml", ".hydra/hydra.yaml")]
    before = [file.read_bytes() for file in files]
    assert f"resume={run_folder}" in script(*XOR, f"hydra.run.dir={run_folder}").error
    for other in (["seed=1"], ["training.time_stepp=0"], ["optimizer.lr=-1"]):
        assert script(*XOR, *other, f"hydra.run.dir={run_folder}").code == 1
        assert [file.read_bytes() for file in files] == before
    assert "seed (now 1, run 42)" in script(*XOR, "seed=1", f"hydra.run.dir={run_folder}").error


def test_a_folder_with_any_name_is_resumed(script, tmp_path):
    folder = tmp_path / "naïve ünï ' run = (1)"
    quoted = str(folder).replace("'", "\\'")
    with stopped_at(70):
        assert script(*XOR, f"hydra.run.dir='{quoted}'").code == 75
    ended = script("train-biohsic", f"resume={folder}")
    assert ended.code == 0, ended.output
    assert status(folder) == "finished"


def test_a_checkpoint_of_a_gpu_is_resumed_on_the_cpu(script, run_folder):
    """How a device computes a step is not part of what is saved."""
    unfinish(run_folder)
    newest = run_folder / "checkpoints" / "epoch-0003.pt"
    content = load_checkpoint(newest)
    (group,) = content["engine"]["optimizer"]["param_groups"]
    group["capturable"] = True  # refused on a CPU
    group["lr"], schedule = torch.tensor(group["lr"]), content["schedule"]
    for name in ("base_lrs", "_last_lr"):
        schedule[name] = [torch.tensor(rate) for rate in schedule[name]]
    write_checkpoint(newest, {**content, "device": "cuda", "engine_name": "compiled"})
    ended = script("train-biohsic", f"resume={run_folder}", "training.nepochs=4", "device=cpu")
    assert ended.code == 0, ended.output
    assert "engine eager" in ended.output
    assert load_checkpoint(checkpoint_files(run_folder / "checkpoints")[-1])["epoch"] == 4


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_answered_with_a_checkpoint(script, tmp_path, number):
    with stopped_at(20, number):
        ended = script(*XOR, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 75
    assert ended.output.count(number.name) == 1
    assert "Traceback" not in ended.output
    (path,) = checkpoint_files(tmp_path / "run" / "checkpoints")
    step = load_checkpoint(path)["step"]
    assert step is None or step >= 20  # None: on a busy machine the steps that were begun can be the epoch's last


def test_a_second_signal_stops_at_once(script, tmp_path, monkeypatch):
    monkeypatch.setattr("projectlib.cli.interrupts.TOGETHER", 0)
    with stopped_at(20, times=2):
        ended = script(*XOR, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 128 + signal.SIGTERM
    assert checkpoint_files(tmp_path / "run" / "checkpoints") == []
    assert status(tmp_path / "run") == "interrupted"


# Files


@pytest.mark.parametrize("name", ["metrics.csv", "checkpoints/epoch-0002.pt", "summary.json"])
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(script, run_folder, tmp_path, monkeypatch, name):
    wanted, folder = (run_folder / "metrics.csv").read_bytes(), tmp_path / "full"
    (folder / name).parent.mkdir(parents=True)
    beside = (folder / name).with_name(f".{(folder / name).name}.partial")
    flush = os.fsync

    def full(descriptor):
        if os.path.realpath(f"/proc/self/fd/{descriptor}") == str(beside.absolute()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(beside))
        flush(descriptor)

    arguments = [*XOR, f"hydra.run.dir={folder}"]
    if name == "metrics.csv":  # full from the second epoch on
        assert script(*XOR, "training.nepochs=1", f"hydra.run.dir={folder}").code == 0
        arguments = ["train-biohsic", f"resume={folder}", "training.nepochs=3"]
    monkeypatch.setattr(os, "fsync", full)
    ended = script(*arguments)
    monkeypatch.setattr(os, "fsync", flush)
    assert ended.code == 1
    assert "No space left on device" in ended.error
    assert f"resume={folder}" in ended.error
    assert "Traceback" not in ended.output
    assert len(checkpoint_files(folder / "checkpoints")) >= 1
    assert script("train-biohsic", f"resume={folder}").code == 0
    assert (folder / "metrics.csv").read_bytes() == wanted


def test_a_folder_that_cannot_be_written(script, tmp_path):
    (tmp_path / "file").write_text("")
    error = script(*XOR, f"hydra.run.dir={tmp_path / 'file' / 'run'}").error
    assert "file" in error
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoints").write_text("in the way")
    error = script(*XOR, f"hydra.run.dir={folder}").error
    assert "checkpoints" in error
    assert status(folder) == "failed"


def test_a_folder_has_one_writer(script, run_folder):
    unfinish(run_folder)
    hold = (
        "import time; from projectlib.runs.files import locked; "
        f"lock = locked({str(run_folder)!r}); lock.__enter__(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    before = (run_folder / "summary.json").read_bytes()
    assert f"process {holder.pid} on " in script("train-biohsic", f"resume={run_folder}").error
    assert (run_folder / "summary.json").read_bytes() == before
    holder.kill()
    holder.wait()
    with locked(run_folder):
        pass  # what a killed owner leaves behind holds nobody
    assert script("train-biohsic", f"resume={run_folder}").code == 0


def test_a_look_at_a_folder_does_not_keep_its_writer_out(tmp_path, monkeypatch):
    """projectlib.sweeps.collect asks for the lock for as long as it takes to look."""
    monkeypatch.setattr("projectlib.runs.files.PATIENCE", 30)  # however busy the machine is
    held = FileLock(tmp_path / ".lock", thread_local=False)
    held.acquire()
    threading.Timer(0.15, held.release).start()
    with locked(tmp_path):
        pass


def test_two_processes_in_one_folder(tmp_path):
    """Started together, one trains and the other is told who does."""
    arguments = [*XOR[1:], "training.nepochs=10", f"hydra.run.dir={tmp_path / 'run'}"]
    first, second = (start(XOR[0], *arguments, cwd=tmp_path) for _ in range(2))
    ended = {first.wait(timeout=120): first.stdout.read(), second.wait(timeout=120): second.stdout.read()}
    assert sorted(ended) == [0, 1]
    assert "is being written by process" in ended[1] or "holds the checkpoints of a run" in ended[1]


def test_chaos_in_short():
    """One run killed inside every kind of write, and once at random: ``make chaos`` does it to runs of all kinds."""
    words = ["--cases", "biohsic", "--only-runs", "--kills", "1", "--seed", "3"]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "chaos.py"), *words], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"kills 2\d  differences 0\n$", ended.stdout), ended.stdout


def test_checkpoints_are_plain_archives(run_folder):
    newest = checkpoint_files(run_folder / "checkpoints")[-1]
    assert zipfile.ZipFile(newest).testzip() is None
    content = torch.load(newest, weights_only=True)
    assert content["config"]["data"]["name"] == "xor"
    assert content["history"][-1]["epoch"] == 3
