"""Run folders of a stranger, or spoilt: each is one row with its error, and nothing that was finished is lost."""

import csv
import io
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from projectlib.errors import UserError
from projectlib.plotting.report import report
from projectlib.runs.checkpoint import checkpoint_files, load_checkpoint
from projectlib.runs.files import is_locked, locked
from projectlib.runs.folder import checkpoint_folder, read_config, read_settings, read_summary
from projectlib.runs.recorder import Recorder
from projectlib.runs.run import Run, find_runs, open_runs
from projectlib.sweeps.collect import collect, main, to_csv
from projectlib.training.tasks import load_data_of_run

CONFIG, SUMMARY, METRICS, HYDRA = ".hydra/config.yaml", "summary.json", "metrics.csv", ".hydra/hydra.yaml"


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def without_summary(name, text):
    def change(folder):
        (folder / SUMMARY).unlink()
        (folder / name).write_text(text)

    return change


def as_pipe(name):
    def change(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def summary(**values):
    return write(SUMMARY, json.dumps({"status": "finished", "metrics": {}, **values}))


NESTED = "[" * 5000 + "]" * 5000
BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
ROW = "epoch,split,model,loss,accuracy\n0,test,0,0.7,0.5\n1,te"

DAMAGED = {
    "summary: a list": write(SUMMARY, "[1]"),
    "summary: torn": write(SUMMARY, '{"status": "fin'),
    "summary: nested": write(SUMMARY, NESTED),
    "summary: status": summary(status=3),
    "summary: metrics": summary(metrics=5),
    "summary: a split": summary(metrics={"test": [1]}),
    "summary: a value": summary(metrics={"test": {"accuracy": 0.5}}),
    "summary: text": summary(metrics={"test": {"accuracy": {"mean": "0.5", "sd": None}}}),
    "summary: too large": summary(metrics={"test": {"accuracy": {"mean": 10**400, "sd": None}}}),
    "summary: seconds": summary(wall_seconds="1"),
    "summary: skipped for itself": lambda folder: summary(status="skipped", finished_in=str(folder))(folder),
    "summary: skipped for nothing": summary(status="skipped"),
    "summary: a pipe": as_pipe(SUMMARY),
    "metrics: cut": without_summary(METRICS, ROW),
    "metrics: a pipe": lambda folder: [(folder / SUMMARY).unlink(), as_pipe(METRICS)(folder)],
    "metrics: not finite": without_summary(METRICS, ROW[:-4] + "1,test,0,1e999,0.5\n"),
    "config: torn": write(CONFIG, "a: ["),
    "config: a list": write(CONFIG, "[1, 2]"),
    "config: nested": write(CONFIG, NESTED),
    "config: a bomb": write(CONFIG, BOMB),
    "config: code": write(CONFIG, "a: !!python/object/apply:os.system [touch sprung]"),
    "config: nmodels": write(CONFIG, "nmodels: x"),
    "config: no models": write(CONFIG, "nmodels: 0"),
    "config: a pipe": as_pipe(CONFIG),
}


@pytest.fixture
def good_and_bad(run_folder, tmp_path):
    """A good run, and a copy of it to be spoilt, in one folder."""
    both = tmp_path / "both"
    shutil.copytree(run_folder, both / "0")
    return both, Path(shutil.copytree(run_folder, both / "1"))


@pytest.mark.parametrize("name", DAMAGED)
def test_a_bad_folder_is_one_row_with_its_error(good_and_bad, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    both, bad = good_and_bad
    DAMAGED[name](bad)
    good_row, bad_row = collect([both])
    assert (good_row["status"], bad_row["status"]) == ("finished", "damaged")
    assert str(bad) in bad_row["error"]
    main([str(both), "-o", "runs.csv"])
    assert len([*csv.reader(Path("runs.csv").read_text().splitlines())]) == 3
    assert "2 runs: 1 finished, 1 damaged" in capsys.readouterr().out
    page = report([*find_runs(both)])
    assert "damaged" in page
    assert page.count("<img") > 0
    assert not Path("sprung").exists()


def test_a_link_loop_ends(good_and_bad):
    both, _ = good_and_bad
    (both / "loop").symlink_to(both)
    (both / "up").symlink_to(both.parent)
    (both / "itself").symlink_to(both / "itself")
    assert {Path(row["folder"]).name for row in collect([both])} == {"0", "1", "run"}
    assert len(open_runs(both)) == 3


def test_jobs_that_skip_in_a_circle(good_and_bad):
    both, bad = good_and_bad
    for folder, other in ((both / "0", bad), (bad, both / "0")):
        summary(status="skipped", finished_in=str(other))(folder)
    assert [row["status"] for row in collect([both])] == ["damaged", "damaged"]


def test_cells_are_no_formulas_and_command_no_terminal(good_and_bad, capsys):
    both, bad = good_and_bad
    for setting in ('=HYPERLINK("http://x")', "+1+1", "-2+3", "@SUM(A1)", "\t=1"):
        config = bad / CONFIG
        config.write_text(json.dumps({"nmodels": 1, "name": setting, "lr": -0.5, "=key": setting}))
        header, *rows = csv.reader(io.StringIO(to_csv(collect([both]))))
        cells = dict(zip(header, rows[1], strict=True))
        assert cells["name"][0] == "'"
        assert cells["lr"] == "-0.5"
        assert "'=key" in header
    summary(status="failed", error="\x1b[2J\x1b]0;title\x07 \u202egpj")(bad)
    main([str(both)])
    printed = capsys.readouterr().out
    assert "\\x1b[2J" in printed
    assert not any(character in printed for character in "\x1b\x07\u202e")
    assert "\x1b" not in to_csv(collect([both]))


def test_the_environment_is_not_looked_up(run_folder, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    path = run_folder / CONFIG
    path.write_text(path.read_text() + "\nmine: ${oc.env:SECRET}\nagain: ${mine}\nnested: ${${oc.env:SECRET}}\n")
    text = report([Run(run_folder), Run(run_folder)])
    assert "hunter2" not in text
    assert Run(run_folder).settings["again"] == "${oc.env:SECRET}"
    assert "hunter2" not in to_csv(collect([run_folder]))


def test_settings_are_read_as_they_were_written(run_folder):
    path = run_folder / CONFIG
    path.write_text("a: 1e-4\nb: 2026-11-24\nc: 1.0e-05\nd: .inf\ne: 0x10\nf: 1_000\ng: 12e3\n")
    assert read_settings(run_folder, "config.yaml") == OmegaConf.to_container(OmegaConf.load(path))


# Where data is


def test_a_folder_does_not_say_where_to_download_to(script, run_folder, tmp_path, monkeypatch):
    """Its config may be somebody else's, and without checkpoints it starts over; a user who names the place may."""
    asked, settings = [], read_config(run_folder)
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", lambda *a, **k: asked.append(a))
    source = {"_target_": "projectlib.data.mnist", "root": "${data.root}", "scale": "symmetric"}
    settings.data.update({"root": str(tmp_path), "source": source})
    OmegaConf.save(settings, run_folder / CONFIG)
    (run_folder / SUMMARY).unlink()
    shutil.rmtree(run_folder / "checkpoints")
    assert "Dataset not found" in script("train-biohsic", f"resume={run_folder}").error
    with pytest.raises(UserError, match="Dataset not found"):
        load_data_of_run(settings, run_folder)
    assert asked == []
    script("train-biohsic", f"resume={run_folder}", f"data.root={tmp_path}")
    assert asked


# Where checkpoints are


@pytest.mark.parametrize("path", ["../other/checkpoints", "a/../../other", ".", "link"])
def test_a_relative_path_of_checkpoints_stays_inside(script, run_folder, path):
    other = Path(shutil.copytree(run_folder, run_folder.parent / "other"))
    (run_folder / "link").symlink_to(other / "checkpoints")
    before = {file: file.read_bytes() for file in checkpoint_files(other / "checkpoints")}
    with pytest.raises(UserError, match="leads out of"):
        checkpoint_folder(run_folder, path)
    (run_folder / SUMMARY).unlink()
    settings = run_folder / ".hydra" / "config.yaml"
    settings.write_text(settings.read_text().replace("path: checkpoints\n", f"path: {path}\n"))
    assert "leads out of" in script("train-biohsic", f"resume={run_folder}").error
    assert {file: file.read_bytes() for file in checkpoint_files(other / "checkpoints")} == before


def test_an_absolute_path_of_checkpoints_is_locked(script, tmp_path):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    place = checkpoint_folder(folder, str(elsewhere))
    place.mkdir(parents=True)
    arguments = [
        "data=xor",
        "nmodels=1",
        "data.limit=20",
        "data.batchsize=6",
        "training.nepochs=1",
        f"checkpointing.path={elsewhere}",
    ]
    with locked(place):
        assert (
            f"{place} is being written by process"
            in script("train-biohsic", *arguments, f"hydra.run.dir={folder}").error
        )
    assert script("train-biohsic", *arguments, f"hydra.run.dir={folder}").code == 0
    assert len(checkpoint_files(place)) == 1


# What is left


def test_partial_files_of_a_killed_run_are_deleted(script, run_folder):
    (run_folder / SUMMARY).unlink()
    stale = [run_folder / name for name in (".metrics.csv.partial", "checkpoints/.epoch-0002-step-00000017.pt.partial")]
    for path in stale:
        path.write_bytes(b"half")
    assert script("train-biohsic", f"resume={run_folder}").code == 0
    assert not [*run_folder.glob("**/.*.partial")]


@pytest.mark.parametrize(
    "setting", ["training.nepochs=0", "nmodels=0", "device=nosuch", "checkpointing.rate=0", "plugins=[nosuch]"]
)
def test_a_finished_summary_is_never_written_over(script, run_folder, setting):
    arguments = ["data=xor", "nmodels=1", "data.batchsize=6", "data.limit=30", "training.nepochs=2", "engine=eager"]
    before = (run_folder / SUMMARY).read_bytes()
    assert script("train-biohsic", *arguments, setting, f"hydra.run.dir={run_folder}").code == 1
    assert (run_folder / SUMMARY).read_bytes() == before
    assert script("train-biohsic", f"resume={run_folder}", "training.nepochs=4", "device=cuda:77").code == 1
    assert (run_folder / SUMMARY).read_bytes() == before


def test_a_running_run_is_not_called_failed_by_another_command(script, run_folder):
    (run_folder / SUMMARY).unlink()
    with locked(run_folder):
        error = script("train-biohsic", "data=xor", "training.nepochs=0", f"hydra.run.dir={run_folder}").error
    assert "is being written by process" in error
    assert read_summary(run_folder) == {}


def test_a_killed_owner_holds_nothing(tmp_path):
    (tmp_path / ".owner").write_text("process 1 on nowhere")
    (tmp_path / ".lock").touch()
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def stop_with(number):
    def after_chunk(self, steps):
        signal.raise_signal(number)
        self.progress.update(steps)
        return self.interrupts.requested

    return after_chunk


def test_a_lost_terminal_leaves_a_checkpoint(script, tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "after_chunk", stop_with(signal.SIGHUP))
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started the tests
    try:
        ended = script("train-biohsic", "data=xor", "nmodels=1", "engine=eager", f"hydra.run.dir={tmp_path / 'run'}")
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert ended.code == 75
    (path,) = checkpoint_files(tmp_path / "run" / "checkpoints")
    assert load_checkpoint(path)["step"] > 0


def test_under_nohup_a_run_outlives_its_terminal(script, tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "after_chunk", stop_with(signal.SIGHUP))
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        settings = ["data=xor", "nmodels=1", "data.limit=20", "data.batchsize=6", "training.nepochs=1", "engine=eager"]
        assert script("train-biohsic", *settings, f"hydra.run.dir={tmp_path / 'run'}").code == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


# Links and pipes


@pytest.mark.parametrize("name", [".summary.json.partial", ".metrics.csv.partial", ".owner"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_written_whole_goes_through_no_link_and_waits_for_no_pipe(script, run_folder, tmp_path, name, kind):
    (run_folder / SUMMARY).unlink()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (run_folder / name).symlink_to(victim) if kind == "link" else os.mkfifo(run_folder / name)
    assert script("train-biohsic", f"resume={run_folder}", "training.nepochs=3").code == 0
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["train-biohsic.log", "figures", HYDRA, ".lock", "figures/learning-curve.png"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_written_in_place_must_be_there(script, run_folder, tmp_path, name, kind):
    (run_folder / SUMMARY).unlink()
    (tmp_path / "figures").mkdir()
    path = run_folder / name
    path.parent.mkdir(exist_ok=True)
    content = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True) if not path.is_dir() else shutil.rmtree(path)
    victim = tmp_path / "figures" if name == "figures" else tmp_path / "victim"
    if name != "figures":
        victim.write_bytes(content)
    path.symlink_to(victim) if kind == "link" else os.mkfifo(path)
    error = script("train-biohsic", f"resume={run_folder}", "training.nepochs=3").error
    assert str(path) in error
    assert victim.is_dir() or victim.read_bytes() == content
    assert not [*(tmp_path / "figures").iterdir()]


def test_a_checkpoint_that_is_a_pipe_is_not_waited_for(script, run_folder):
    (run_folder / SUMMARY).unlink()
    newest = checkpoint_files(run_folder / "checkpoints")[-1]
    newest.unlink()
    os.mkfifo(newest)
    ended = script("train-biohsic", f"resume={run_folder}")
    assert ended.code == 0
    assert "it is no file" in ended.output


def test_a_search_that_is_none_is_refused(script, run_folder):
    (run_folder / SUMMARY).unlink()
    settings = run_folder / CONFIG
    settings.write_text(settings.read_text().replace("search: null", "search: x"))
    assert "search is 'x'" in script("train-biohsic", f"resume={run_folder}").error


def test_a_list_in_place_of_settings_is_refused(script, run_folder):
    (run_folder / SUMMARY).unlink()
    settings = run_folder / CONFIG
    settings.write_text(settings.read_text().replace("training:\n", "training:\n- 1\nothers:\n"))
    assert "training.nepochs should be" in script("train-biohsic", f"resume={run_folder}", "training.nepochs=3").error


def test_a_setting_that_no_run_can_do_without_is_missed(script, run_folder):
    config = run_folder / CONFIG
    config.write_text(re.sub(r"\n  rate: .*", "", config.read_text()))
    ended = script("train-biohsic", f"resume={run_folder}", "training.nepochs=3")
    assert ended.code == 1
    assert "checkpointing.rate is None; expected a whole number" in ended.error
