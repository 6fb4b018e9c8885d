"""The named experiments of ``configs/experiment/``: which runs belong to one, and running those that are missing.

    python -m projectlib.sweeps.experiments quick                      a set: each experiment that has no finished run
    python -m projectlib.sweeps.experiments paper/mnist nmodels=5      one or several, with settings of one's own
    python -m projectlib.sweeps.experiments quick --draw               and then execute the notebook

What a signal cut is gone on with.
"""

import argparse
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from projectlib.cli.interrupts import EXIT_RESUME
from projectlib.config.compose import CONFIGS, quote
from projectlib.config.settings import SAME_RESULT, SIZE, flatten, is_among
from projectlib.errors import UserError
from projectlib.runs.folder import Run, all_runs

ROOT = CONFIGS.parent
RESULTS = (ROOT / "outputs", ROOT / "multirun")  # where single runs and sweeps go


@dataclass(frozen=True)
class Experiment:
    """One file of ``configs/experiment/``, such as ``paper/mnist``.  Raises UserError where there is none.

    typed: further settings, as on a command line.
    """

    name: str
    typed: tuple[str, ...] = field(default=())

    def __post_init__(self):
        if not self.path.is_file():
            raise UserError(f"experiment {self.name!r} does not exist; expected one of {', '.join(experiment_names())}")

    @property
    def path(self) -> Path:
        return CONFIGS / "experiment" / f"{self.name}.yaml"

    @property
    def command(self) -> str:
        """What makes its runs, as its file says in the second line."""
        return shlex.join(self.words)

    @property
    def words(self) -> list[str]:
        return [*self.path.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ").split(), *self.typed]

    @property
    def script(self) -> str:
        return Path(self.words[1]).stem

    @property
    def is_sweep(self) -> bool:
        return "--multirun" in self.words

    @cached_property
    def swept(self) -> dict[str, list[str]]:
        """Values of each setting that a sweep goes through."""
        values = OmegaConf.select(OmegaConf.load(self.path), "hydra.sweeper.params") or {}
        return {key: str(text).split(",") for key, text in values.items()}

    @cached_property
    def config(self) -> DictConfig:
        """Its settings, but for those that a sweep goes through."""
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose(self.script, [f"experiment={self.name}", *self.typed])

    def claims(self, run: Run) -> bool:
        """Whether a run is one of this experiment: started as such, or a single run typed with its settings."""
        if run.script != self.script or run.is_sweep_job != self.is_sweep:
            return False
        if run.experiment is not None or self.is_sweep:
            return run.experiment == self.name
        return same_settings(run.config, self.config, free=SAME_RESULT + SIZE)

    def is_full(self, run: Run) -> bool:
        """Whether a run of this experiment has its settings and its size."""
        return same_settings(run.config, self.config, free=(*SAME_RESULT, *self.swept))


def experiment_names(folder: str = "*") -> list[str]:
    """All experiments, or those of one folder such as ``quick``."""
    paths = sorted((CONFIGS / "experiment").glob(f"{folder}/*.yaml"))
    return [str(path.relative_to(CONFIGS / "experiment").with_suffix("")) for path in paths]


def same_settings(a: DictConfig, b: DictConfig, free: tuple[str, ...]) -> bool:
    """Whether two configs agree wherever both have a setting, but for the free ones.

    A setting that one of them lacks came with a later version, which keeps what was there before as its default.
    """
    a, b = (dict(flatten(OmegaConf.to_container(config))) for config in (a, b))
    shared = (key for key in a.keys() & b.keys() if not is_among(key, free))
    return all(a[key] == b[key] for key in shared)


class Results:
    """The runs below folders of results, looked through once.

    roots: e.g. outputs and multirun.  name: the set of experiments, ``paper`` or ``quick``.
    """

    def __init__(self, roots: Sequence[str | Path] = RESULTS, name: str = "paper"):
        if not experiment_names(name):
            raise UserError(f"there is no set of experiments {name!r}; expected paper or quick")
        self.roots, self.name = list(roots), name

    @cached_property
    def found(self) -> list[Run]:
        return all_runs(self.roots)

    def runs(self, *names: str) -> list[Path]:
        """The folders of the newest run, or of all jobs of the newest sweep, of each experiment, e.g. ``"mnist-bp"``.

        A finished run goes before one that is not, and one that was started as the experiment before another of
        the same settings.  Prints the command for each that has none.  Raises UserError where none has one.
        """
        experiments = [Experiment(f"{self.name}/{name}") for name in names]
        found = {experiment: self.newest(experiment) for experiment in experiments}
        missing = [f"no run of {e.name} yet: {e.command}" for e in experiments if not found[e]]
        if len(missing) == len(experiments):
            raise UserError("\n".join(missing))
        for line in missing:
            print(line)
        for run in (run for runs in found.values() for run in runs):
            print(f"drawn from {run}")
        return [run.folder for runs in found.values() for run in runs]

    def newest(self, experiment: Experiment) -> list[Run]:
        """Its newest run, or all jobs of its newest sweep that have metrics, by number; empty where there is none."""
        runs = [run for run in self.found if experiment.claims(run) and run.has_metrics]
        if not runs:
            return []
        best = max(runs, key=lambda run: (run.is_finished, run.experiment is not None, run.started))
        return jobs_beside(best, runs) if experiment.is_sweep else [best]


def jobs_beside(job: Run, runs: Sequence[Run]) -> list[Run]:
    """The jobs of one sweep among runs, in the order of their folders' numbers."""
    jobs = [run for run in runs if run.folder.parent == job.folder.parent]
    return sorted(jobs, key=lambda run: int(run.folder.name) if run.folder.name.isdigit() else math.inf)


def is_there(experiment: Experiment, runs: Sequence[Run]) -> bool:
    """Whether a finished run, or a sweep with all its jobs finished, has the experiment's settings and size."""
    full = [run for run in runs if experiment.claims(run) and run.is_finished and experiment.is_full(run)]
    if not experiment.is_sweep:
        return bool(full)
    wanted = math.prod(len(values) for values in experiment.swept.values())
    return any(len(jobs_beside(run, full)) >= wanted for run in full)


def arguments(experiment: Experiment, runs: Sequence[Run]) -> list[str]:
    """The command line that makes what is missing of an experiment: a run or a sweep that was cut is gone on with."""
    command = experiment.words[1:]
    cut = [run for run in runs if experiment.claims(run) and experiment.is_full(run)]
    if not cut:
        return command
    if experiment.is_sweep:
        return [*command, f"hydra.sweep.dir={quote(cut[0].folder.parent)}"]
    return [command[0], f"resume={cut[0].folder}"]


def run_missing(
    experiments: Sequence[Experiment],
    roots: Sequence[str | Path] = RESULTS,
    call: Callable[[list[str]], int] = lambda words: subprocess.call([sys.executable, *words], cwd=ROOT),
) -> list[str]:
    """Run what has no finished run, one experiment after the other; returns the names of those that failed.

    call: runs a script with arguments, returns its exit code.  A run that a signal stopped stops all.
    """
    runs, failed = all_runs(roots), []
    for experiment in experiments:
        if is_there(experiment, runs):
            print(f"{experiment.name}: there already", flush=True)
            continue
        words = arguments(experiment, runs)
        print(f"{experiment.name}: python {shlex.join(words)}", flush=True)
        code = call(words)
        if code == EXIT_RESUME:
            raise UserError(f"{experiment.name} was stopped; the same command goes on with it")
        if code:
            failed.append(experiment.name)
    return failed


def draw(name: str) -> Path:
    """Execute ``plotting.ipynb`` on a set of experiments; returns where it is, beside its figures in ``build/``."""
    import nbformat
    from nbclient import NotebookClient

    path = ROOT / "build" / f"plotting-{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    notebook = nbformat.read(ROOT / "plotting.ipynb", as_version=4)
    environment = {**os.environ, "SET": name, "FIGURES": str(path.with_name(f"figures-{name}"))}
    NotebookClient(notebook, resources={"metadata": {"path": ROOT}}).execute(env=environment)
    nbformat.write(notebook, path)
    return path


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m projectlib.sweeps.experiments", description="Run what is missing.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="a set (quick, paper), or experiments: paper/mnist")
    parser.add_argument("--draw", action="store_true", help="then execute plotting.ipynb on the sets, into build/")
    arguments = parser.parse_args(words)
    typed = tuple(word for word in arguments.names if "=" in word)
    named = [word for word in arguments.names if "=" not in word]
    known = [name for word in named for name in (experiment_names(word) or [word])]
    failed = run_missing([Experiment(name, typed) for name in known])
    for name in dict.fromkeys(name.split("/")[0] for name in known if arguments.draw):
        print(f"drawn: {draw(name)}")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
