"""What several test files share."""

import gc
import logging
import os
import runpy
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hydra._internal import hydra as hydra_internals
from tiny_runs import XOR

from projectlib.cli.interrupts import SIGNALS
from projectlib.config import plugins
from projectlib.config.experiments import experiment_names
from projectlib.engines import cuda_graph
from projectlib.sweeps.experiments import plan

REFERENCE = Path(__file__).parent / "reference"
ROOT = Path(__file__).parents[1]
NO_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}

torch.set_num_threads(1)  # tests' processes share the cores: with two threads each, small steps take five times as long


def pytest_collection_finish():
    """What was imported is no garbage: the collector need not look for it there."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def alike_everywhere(monkeypatch):
    """``device=auto`` is the CPU, also where a GPU is, and what is drawn without a generator is always the same."""
    monkeypatch.setattr("projectlib.cli.job.job_device", lambda num_devices, job_number: "cpu")
    torch.manual_seed(0)


@pytest.fixture
def few_steps(monkeypatch):
    """In the longer of the captured graphs, so that tests are short."""
    monkeypatch.setattr(cuda_graph, "UNROLLED", 3)


@pytest.fixture
def reference():
    """Load one file of numbers computed by the published implementation, as tensors by key."""

    def load(name):
        with np.load(REFERENCE / f"{name}.npz") as file:
            return {key: torch.from_numpy(file[key].copy()) for key in file.files}

    return load


class Ended(NamedTuple):
    """How a script ended: its exit code, and all that it printed."""

    code: int
    output: str

    @property
    def error(self):
        """The one line of an error."""
        lines = [line for line in self.output.splitlines() if "[ERROR]" in line or line.startswith("error: ")]
        assert len(lines) == 1, self.output
        return lines[0]


@contextmanager
def scripts_in_this_process(folder, draws=False):
    """``run(name, *arguments)`` runs an entry script as its command line does, in ``folder``; returns its exit code.

    What a script changes of the process is put back at the end.  draws: a run's figures, too, which take as long as
    what else there is around the training of a tiny run.
    """
    root, threads = logging.getLogger(), torch.get_num_threads()
    handlers, level = root.handlers[:], root.level
    listeners = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("HYDRA_FULL_ERROR", "1")
            patch.setattr(logging, "raiseExceptions", False)
            patch.setattr(sys, "path", [*sys.path])
            patch.setattr(plugins, "PLUGINS", {*plugins.PLUGINS})
            patch.setattr("projectlib.training.tasks.ALL_THREADS", 1)  # the tests' own processes share the cores
            patch.setattr(hydra_internals, "ConfigLoaderImpl", hydra_internals.ConfigLoaderImpl)
            patch.setattr("projectlib.cli.job.job_device", lambda num_devices, job_number: "cpu")  # also where a GPU is
            patch.delenv("BIOHSIC_DATA", raising=False)
            if not draws:
                none = lambda run_folder: run_folder / "figures" / "none.png"  # noqa: E731
                patch.setattr("projectlib.plotting.save_run_figure", none)

            def run(name, *arguments):
                patch.setattr(sys, "argv", [str(ROOT / f"{name}.py"), *arguments])
                try:
                    runpy.run_path(sys.argv[0], run_name="__main__")
                except SystemExit as error:
                    return error.code
                return 0

            yield run
    finally:
        root.handlers[:], root.level = handlers, level
        torch.set_num_threads(threads)
        for number, listener in listeners.items():
            signal.signal(number, listener)


@pytest.fixture
def script(request, tmp_path, capsys):
    """Run an entry script in this process with tmp_path as the working folder; how it ended.

    Tests that are marked ``draws`` have the run's figures, too.
    """
    with scripts_in_this_process(tmp_path, request.node.get_closest_marker("draws") is not None) as run:

        def run_and_capture(name, *arguments):
            capsys.readouterr()
            code = run(name, *arguments)
            printed = "".join(capsys.readouterr())
            return Ended(code, printed) if isinstance(code, int) else Ended(1, f"{printed}{code}\n")

        yield run_and_capture


@contextmanager
def started(name, *arguments, cwd, **environment):
    """An entry script as a process of its own, which ends with the context at the latest, its workers too."""
    words = [sys.executable, str(ROOT / f"{name}.py"), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, cwd=cwd, env={**NO_GPU, **environment}, start_new_session=True, **pipes) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def command(tmp_path):
    """Run an entry script as a process of its own and wait for its end."""

    def run(name, *arguments, cwd=tmp_path, **environment):
        with started(name, *arguments, cwd=cwd, **environment) as process:
            output, _ = process.communicate(timeout=400)
        return Ended(process.returncode, output)

    return run


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    settings = ("data=xor", "nmodels=1", "data.batchsize=6", "data.limit=30", "training.nepochs=2", "engine=eager")
    with scripts_in_this_process(folder.parent) as run:
        assert run("train-biohsic", *settings, f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture
def run_folder(trained_run, tmp_path):
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


TINY = {
    "train-reservoir": ("model.nhidden=20", "data.nsamples=12", "data.ntimesteps=3", "training.nepochs=2"),
    "train-biohsic": ("nmodels=2", "data.limit=40", "training.nepochs=2"),
    "train-bp": ("nmodels=2", "data.limit=40", "training.nepochs=2"),
    "train-lif-biohsic": ("nmodels=2", "data.limit=70", "training.nepochs=2", "training.sample_timesteps=2"),
}


@pytest.fixture(scope="session")
def tiny_results(tmp_path_factory):
    """A folder with the quick runs of every experiment in ``outputs`` and ``multirun``, made far smaller."""
    names = experiment_names()
    return run_tiny(tmp_path_factory.mktemp("results"), [run for name in names for run in plan(name, "quick")])


def run_tiny(folder, planned):
    with scripts_in_this_process(folder) as run:
        for one in planned:
            assert run(one.script, *one.words[1:], *TINY[one.script]) == 0
    return folder


def one_line(error):
    """What pytest.raises caught, as text, which is one line."""
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A finished run of three epochs."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with scripts_in_this_process(folder.parent) as run:
        assert run(*XOR, f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture
def tiny_run(finished_run, tmp_path):
    """A copy of it that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))
