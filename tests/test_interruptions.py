"""Signals, full disks, folders that cannot be written and two writers: what a run leaves behind, it can go on from."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from conftest import NO_GPU, ROOT, started
from filelock import FileLock
from tiny_runs import XOR, status, stopped_at, unfinish

from projectlib.runs.checkpoint import checkpoint_files, load_checkpoint
from projectlib.runs.files import locked
from projectlib.runs.history import History
from projectlib.runs.recorder import Recorder
from projectlib.runs.run import Run
from projectlib.sweeps.collect import read_run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_answered_with_a_checkpoint(script, tmp_path, number):
    """Inside the epoch, of 75 steps: a chunk has at most twice as many as the one before, so it ends by the 57th."""
    with stopped_at(20, number):
        ended = script(*XOR, "data.limit=80", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 75
    assert ended.output.count(number.name) == 1
    assert "Traceback" not in ended.output
    (path,) = checkpoint_files(tmp_path / "run" / "checkpoints")
    assert 20 <= load_checkpoint(path)["step"] < 75


def test_a_second_signal_stops_at_once(script, tmp_path, monkeypatch):
    monkeypatch.setattr("projectlib.cli.interrupts.TOGETHER", 0)
    with stopped_at(20, times=2):
        ended = script(*XOR, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 128 + signal.SIGTERM
    assert checkpoint_files(tmp_path / "run" / "checkpoints") == []
    assert status(tmp_path / "run") == "interrupted"


@pytest.mark.parametrize("name", ["metrics.csv", "checkpoints/epoch-0002.pt", "summary.json"])
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(script, tiny_run, tmp_path, monkeypatch, name):
    wanted, folder = (tiny_run / "metrics.csv").read_bytes(), tmp_path / "full"
    (folder / name).parent.mkdir(parents=True)
    beside = (folder / name).with_name(f".{(folder / name).name}.partial")
    flush = os.fsync

    def full(descriptor):
        if beside.exists() and os.path.samestat(os.fstat(descriptor), beside.stat()):
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


def test_a_folder_has_one_writer(script, tiny_run):
    unfinish(tiny_run)
    hold = (
        "import time; from projectlib.runs.files import locked; "
        f"lock = locked({str(tiny_run)!r}); lock.__enter__(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        before = (tiny_run / "summary.json").read_bytes()
        assert f"process {holder.pid} on " in script("train-biohsic", f"resume={tiny_run}").error
        assert (tiny_run / "summary.json").read_bytes() == before
        holder.kill()
    with locked(tiny_run):
        pass  # what a killed owner leaves behind holds nobody
    assert script("train-biohsic", f"resume={tiny_run}").code == 0


def test_a_finished_run_that_goes_on_and_is_killed_is_not_finished(script, tiny_run, monkeypatch):
    with monkeypatch.context() as patch, stopped_at(40):
        patch.setattr(Recorder, "__exit__", lambda *_: None)  # nothing is written at the end
        script("train-biohsic", f"resume={tiny_run}", "training.nepochs=6")
    reached = History.read(tiny_run / "metrics.csv")
    assert reached.last_epoch > 3
    assert Run(tiny_run).status == ("interrupted", "")
    row = read_run(Run(tiny_run))
    assert (row["status"], row["training.nepochs"]) == ("interrupted", 6)
    assert row["test_accuracy"] == reached.summary()["test"]["accuracy"]["mean"]
    assert script("train-biohsic", f"resume={tiny_run}").code == 0
    assert (Run(tiny_run).is_finished, Run(tiny_run).history.last_epoch) == (True, 6)


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
    with started(XOR[0], *arguments, cwd=tmp_path) as first, started(XOR[0], *arguments, cwd=tmp_path) as second:
        ended = {process.wait(timeout=120): process.stdout.read() for process in (first, second)}
    assert sorted(ended) == [0, 1]
    assert "is being written by process" in ended[1] or "holds the checkpoints of a run" in ended[1]


def test_chaos_in_short():
    """One run killed inside every kind of write, and once at random: ``make chaos`` does it to runs of all kinds."""
    words = ["--cases", "biohsic", "--only-runs", "--kills", "1", "--seed", "3"]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "chaos.py"), *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=NO_GPU,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"kills 2\d  differences 0\n$", ended.stdout), ended.stdout
