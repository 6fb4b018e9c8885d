"""Sweeps: launchers, jobs that fail, are resumed, or are skipped, and the GPU that each gets."""

import shutil
import signal
from pathlib import Path

import pytest
from conftest import started
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from tiny_runs import wait_for

from projectlib.cli import hydra_job as cli
from projectlib.cli.interrupts import signal_previous_listener
from projectlib.cli.job import train
from projectlib.config.compose import CONFIGS
from projectlib.errors import EXIT_RESUME, Interrupted
from projectlib.runs.checkpoint import checkpoint_files
from projectlib.runs.folder import write_settings
from projectlib.runs.loggers import PrintLogger
from projectlib.runs.run import Run
from projectlib.sweeps import launchers
from projectlib.sweeps.collect import collect
from projectlib.sweeps.jobs import finished_run, note_finished, objective, settings_digest

TINY = ["data=digits", "data.limit=40", "nmodels=1", "engine=eager", "training.nepochs=3", "data.validation=0.2"]


def compose_config(*overrides, script="train-biohsic", hydra=False):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(script, [*TINY, *overrides], return_hydra_config=hydra)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job's config, folder and Hydra settings, as a launcher hands them over; all it writes is in tmp_path."""
    monkeypatch.chdir(tmp_path)
    launched = compose_config(hydra=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(launched)
    folder = tmp_path / "sweep" / "0"
    config = compose_config()
    write_settings(folder, config=config, hydra=launched)
    return config, folder, OmegaConf.create({"name": "train-biohsic", "num": 0})


# Devices and threads


@pytest.mark.parametrize(
    ("num_devices", "job_number", "device"),
    [(0, 3, "cpu"), (1, 0, "cuda:0"), (1, 7, "cuda:0"), (4, 3, "cuda:3"), (4, 6, "cuda:2")],
)
def test_jobs_take_turns_on_the_devices_they_see(num_devices, job_number, device):
    assert launchers.job_device(num_devices, job_number) == device


def test_a_job_has_the_threads_its_launcher_asked_for(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launchers.os, "environ", dict(launchers.os.environ))
    launchers.limit_threads(OmegaConf.create({}))
    assert "OMP_NUM_THREADS" not in launchers.os.environ
    launchers.limit_threads(OmegaConf.create({"cpus_per_task": 3}))
    assert launchers.os.environ["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("name", ["joblib", "submitit_local", "submitit_slurm"])
def test_launchers_start_from_our_values(name):
    launchers.set_launcher_defaults()
    launcher = compose_config(f"hydra/launcher={name}", hydra=True).hydra.launcher
    ours = OmegaConf.load(CONFIGS / "launchers.yaml")[name]
    for key, value in ours.items():
        assert str(launcher[key]) == str(value), key
    assert launcher._target_.startswith("hydra_plugins.")


@pytest.mark.parametrize("script", ["train-biohsic", "train-bp"])
@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "sweep").glob("*.yaml")))
def test_sweeps_compose(script, name):
    config = compose_config(f"sweep={name}", script=script, hydra=True)
    assert config.hydra.sweeper.params


# The same run


def test_identity_is_that_of_the_numbers():
    base = settings_digest(compose_config())
    assert settings_digest(compose_config("device=cpu", "logger=tensorboard", "training.log_interval=7")) == base
    assert settings_digest(compose_config("sweep.skip_finished=true", "checkpointing.rate=2")) == base
    for change in ("seed=1", "hsic.gamma=3", "training.nepochs=4", "rule=frozen"):
        assert settings_digest(compose_config(change)) != base, change


def test_a_finished_run_is_found_until_its_folder_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, folder = compose_config(), tmp_path / "run"
    assert finished_run("script", config) is None
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    note_finished("script", config, folder)
    assert finished_run("script", config) is None, "its summary does not say so"
    (folder / "summary.json").write_text('{"status": "finished"}')
    assert finished_run("script", config) == folder
    OmegaConf.save(compose_config("seed=3"), folder / ".hydra" / "config.yaml")
    assert finished_run("script", config) is None, "the folder was used again"
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    assert finished_run("other", config) is None
    assert finished_run("script", compose_config("seed=1")) is None


def test_objective_is_null_where_it_was_not_measured():
    metrics = {"validation": {"accuracy": {"mean": 0.5, "sd": None}}}
    assert objective(metrics, "validation/accuracy") == 0.5
    assert objective({}, "validation/accuracy") is None


# Jobs


def test_a_sweep_with_a_value_more_does_not_write_over_the_jobs_of_another(script, tmp_path):
    settings = ["--multirun", *TINY, "training.nepochs=1", "data.limit=20", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert script("train-biohsic", *settings, "seed=1").code == 0
    before = [(row["seed"], row["status"], row["train_loss"]) for row in collect([tmp_path / "sweep"])]
    ended = script("train-biohsic", *settings, "seed=0,1")
    assert ended.code == 1
    assert "holds a run with other settings: seed" in ended.error
    assert [(row["seed"], row["status"], row["train_loss"]) for row in collect([tmp_path / "sweep"])][:1] == before


def test_a_sweep_of_more_epochs_resumes_its_finished_jobs(script, tmp_path):
    same = [word for word in TINY if not word.startswith("training.nepochs=")]
    settings = ["--multirun", *same, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    for epochs in (1, 2):
        assert script("train-biohsic", *settings, f"training.nepochs={epochs}", "seed=1").code == 0
        (row,) = collect([tmp_path / "sweep"])
        assert (row["training.nepochs"], row["status"]) == (epochs, "finished")
    ended = script("train-biohsic", *settings, "training.nepochs=1", "seed=1")
    assert ended.code == 1
    assert "expected at least 2" in ended.error


def test_jobs_share_an_absolute_path_of_checkpoints(command, tmp_path):
    settings = [*TINY, "training.nepochs=1", "data.limit=20", f"checkpointing.path={tmp_path}"]
    ended = command("train-biohsic", "--multirun", *settings, "seed=0,1")
    assert ended.code == 0, ended.output
    (sweep,) = (tmp_path / "multirun" / "train-biohsic").glob("2*/*")
    assert ended.output.endswith(f"python -m projectlib.sweeps.collect {sweep.relative_to(tmp_path)}\n")
    assert len([*tmp_path.glob("*/epoch-0001.pt")]) == 2


def test_a_worker_of_a_search_is_no_run_that_was_interrupted(script, tmp_path):
    settings = [
        "search=digits",
        f"search.folder={tmp_path / 'study'}",
        "search.trials=1",
        f"hydra.sweep.dir={tmp_path}",
    ]
    ended = script("train-biohsic", "--multirun", *settings, *TINY, "training.nepochs=1")
    assert ended.code == 0, ended.output
    (worker,) = collect([tmp_path / "0"])
    (trial,) = collect([tmp_path / "study"])
    assert (worker["status"], trial["status"]) == ("searched", "finished")
    assert script("train-biohsic", f"resume={tmp_path / 'study' / '0000'}", "training.nepochs=2").code == 0


def test_a_job_queued_again_is_resumed_from_its_checkpoint(job, tmp_path, monkeypatch):
    config, folder, hydra_job = job

    def stop(self, epoch, metrics):
        if epoch == 1:
            signal.raise_signal(signal.SIGUSR2)

    with monkeypatch.context() as patch:
        patch.setattr(PrintLogger, "epoch", stop)
        with pytest.raises(Interrupted, match="SIGUSR2"):
            cli.sweep_job(config.copy(), folder, hydra_job)
    assert finished_run("train-biohsic", config) is None
    value = cli.sweep_job(config.copy(), folder, hydra_job)

    alone = tmp_path / "alone"
    shutil.copytree(folder / ".hydra", alone / ".hydra")
    assert train(config.copy(), alone) == value
    assert (alone / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()
    assert finished_run("train-biohsic", config) == folder
    with monkeypatch.context() as patch:
        patch.setattr("projectlib.cli.job.train", None)
        assert cli.sweep_job(config.copy(), folder, hydra_job) == value, "a finished job is left as it is"


def test_a_signal_is_passed_on_to_who_listened_before():
    heard = []
    previous = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        signal_previous_listener("SIGUSR2")
        assert heard == [signal.SIGUSR2]
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        signal_previous_listener("SIGUSR2")  # nobody listens: nothing happens
    finally:
        signal.signal(signal.SIGUSR2, previous)


def test_a_failed_job_stops_no_other_and_a_second_sweep_does_only_what_is_left(command, script, tmp_path):
    """The first with workers of their own."""
    sweep_of = ("train-biohsic", "--multirun", *TINY)
    first = command(*sweep_of, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hsic.gamma=2,nan,5")
    assert first.code == 1, first.output
    (sweep,) = (tmp_path / "multirun" / "train-biohsic").glob("[0-9]*/*")
    rows = {Path(row["folder"]).name: row for row in collect([sweep])}
    assert [rows[str(number)]["status"] for number in range(3)] == ["finished", "failed", "finished"]
    assert "hsic.gamma is nan" in rows["1"]["error"]
    assert "hsic.gamma is nan" in first.output

    again = script(*sweep_of, "hsic.gamma=2,5", "sweep.skip_finished=true", "hydra.sweep.dir=again")
    assert again.code == 0, again.output
    assert again.output.count("skipped: finished in") == 2
    assert "run folder" not in again.output, "something was trained"
    assert {row["folder"] for row in collect([tmp_path / "again"])} == {str(sweep / "0"), str(sweep / "2")}

    elsewhere = script(*sweep_of, "hsic.gamma=2", "hydra.sweep.dir=elsewhere")  # the newest with these settings
    assert "run folder" in elsewhere.output
    before = (sweep / "0" / "summary.json").read_bytes()
    issued_again = script(*sweep_of, "hsic.gamma=2", f"hydra.sweep.dir={sweep}")
    assert f"skipped: finished in {sweep / '0'}" in issued_again.output
    assert (sweep / "0" / "summary.json").read_bytes() == before


def test_a_signal_stops_joblib_s_jobs_after_a_checkpoint_and_the_sweep_with_them(tmp_path):
    """Of three jobs on two workers, as a scheduler sends it: to the process that waits, which passes it on."""
    long = ["training.nepochs=100000", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    begun = [tmp_path / "sweep" / job / "checkpoints" for job in ("0", "1")]
    with started("train-biohsic", "--multirun", *launcher, *TINY, *long, "seed=1,2,3", cwd=tmp_path) as sweep:
        wait_for(lambda: sweep.poll() is not None or all(map(checkpoint_files, begun)), "two checkpoints")
        sweep.send_signal(signal.SIGTERM)
        output, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 75, output
    assert [Run(folder.parent).status[0] for folder in begun] == ["interrupted"] * 2
    assert not (tmp_path / "sweep" / "2" / "checkpoints").exists()
    assert "resumes its jobs" in output


def test_a_signal_after_a_job_s_last_checkpoint_stops_the_sweep(script, tmp_path, monkeypatch):
    def draw(folder):
        signal.raise_signal(signal.SIGTERM)
        return folder / "figures" / "none.png"

    monkeypatch.setattr("projectlib.plotting.save_run_figure", draw)
    sweep_of = ("train-biohsic", "--multirun", *TINY, "hsic.gamma=2,5", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    ended = script(*sweep_of)
    assert ended.code == EXIT_RESUME, ended.output
    assert [(row["folder"], row["status"]) for row in collect([tmp_path / "sweep"])] == [
        (str(tmp_path / "sweep" / "0"), "finished")
    ]
    monkeypatch.undo()
    again = script(*sweep_of)
    assert again.code == 0, again.output
    assert "skipped: finished in" in again.output


def test_a_job_that_was_skipped_is_trained_where_its_run_is_gone(script, tmp_path):
    sweep_of = ("train-biohsic", "--multirun", *TINY, "seed=0", "sweep.skip_finished=true")
    assert script(*sweep_of, "hydra.sweep.dir=first").code == 0
    assert script(*sweep_of, "hydra.sweep.dir=second").code == 0
    job = Run(tmp_path / "second" / "0")
    assert job.trained().folder == tmp_path / "first" / "0"
    shutil.rmtree(tmp_path / "first")
    assert script(*sweep_of, "hydra.sweep.dir=second").code == 0
    assert Run(job.folder).is_finished
