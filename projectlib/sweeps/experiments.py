"""The experiments of ``configs/experiment/``: which runs belong to a figure, and running those that are missing.

    python -m projectlib.sweeps.experiments                                 all, in the paper's size
    python -m projectlib.sweeps.experiments mnist xor --size quick          some, as make figures has them
    python -m projectlib.sweeps.experiments mnist --draw nmodels=5          with settings of one's own; then the figures

Interrupted runs are resumed.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import QuotedString
from omegaconf import DictConfig

from projectlib.config.compose import CONFIGS, compose, parse, quote, without_hydra
from projectlib.config.experiments import SIZES, Experiment, experiment_names, read_experiment, with_size
from projectlib.config.messages import MISTAKES, explained
from projectlib.config.settings import EXTENT, RESUMABLE, SAME_RESULT, flatten, is_among, plain
from projectlib.errors import EXIT_RESUME, UserError, not_installed
from projectlib.runs.run import Run, all_runs, natural
from projectlib.values import require

ROOT = CONFIGS.parent if (CONFIGS.parent / "plotting.ipynb").is_file() else Path()  # installed: the current folder
RESULTS = (ROOT / "outputs", ROOT / "multirun")  # where single runs and sweeps go


@dataclass(frozen=True)
class PlannedRun:
    """One run, or one sweep, that the figure of an experiment consists of.

    settings: further overrides, as on a command line.
    """

    experiment: Experiment
    name: str
    size: str = "paper"
    settings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.experiment.name} {self.name}"

    @property
    def script(self) -> str:
        return self.experiment.runs[self.name][0]

    @property
    def overrides(self) -> list[str]:
        size = [] if self.size == "paper" else [f"size={self.size}"]
        return [f"experiment={self.experiment.name}", *size, *self.experiment.runs[self.name][1:], *self.settings]

    @property
    def words(self) -> list[str]:
        """Its command line, without the interpreter."""
        return [f"{self.script}.py", *(["--multirun"] if self.swept else []), *self.overrides]

    @property
    def command(self) -> str:
        return shlex.join(["python", *self.words])

    @cached_property
    def swept(self) -> dict[str, list[str]]:
        """The values that a sweep goes through, by key; empty for a single run."""
        overrides = [*parse(self.experiment.sweep), *parse(with_size(self.overrides))]
        last = {override.key_or_group: override for override in overrides}
        return {key: [*map(in_words, last[key].sweep_iterator())] for key in last if last[key].is_sweep_override()}

    @property
    def jobs(self) -> list[tuple[str, ...]]:
        """The values of each job of a sweep, by its number; of a single run none."""
        return [*product(*self.swept.values())]

    def values(self, run: Run) -> tuple[str, ...]:
        """A run's own values of what is swept; of a group of configs what was chosen."""
        return tuple(str(run.choices.get(key, run.get(key))) for key in self.swept)

    @property
    def config(self) -> DictConfig:
        """Its settings, but for those that a sweep goes through."""
        return config_of(self.script, *self.overrides)

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The same as plain values by dotted key."""
        return flatten(plain(self.config))

    @cached_property
    def distinctive(self) -> dict[str, Any]:
        """The settings in which the runs of a figure by one script differ."""
        siblings = (replace(self, name=name) for name in self.experiment.runs)
        others = [one.flat for one in siblings if one.script == self.script]
        return {key: own for key, own in self.flat.items() if any(other.get(key) != own for other in others)}

    def matches(self, run: Run) -> bool:
        """Whether a run is this one: started as such, or a single run of the same settings."""
        if run.script != self.script or run.is_sweep_job != bool(self.swept):
            return False
        if (started_as := run.choices.get("experiment")) is None:
            return not self.swept and self.has_settings(run)
        if (started_as, run.get("size")) != (self.experiment.name, self.size):
            return False
        found = flatten(plain(run.config))
        return all(found.get(key) == value for key, value in self.distinctive.items())

    def has_settings(self, run: Run, free: Sequence[str] = EXTENT) -> bool:
        """Whether a run agrees wherever both have a setting, but for the free, the swept and ``SAME_RESULT``.

        A setting that one of them lacks came with a later version, which keeps what was there before as its default.
        """
        theirs, left = flatten(plain(run.config)), (*SAME_RESULT, *self.swept, *free)
        return all(self.flat[key] == theirs[key] for key in self.flat.keys() & theirs if not is_among(key, left))

    def matches_fully(self, run: Run) -> bool:
        """Whether a run is this one, and as long and large."""
        return self.matches(run) and self.has_settings(run, free=())


def plan(name: str, size: str = "paper", settings: Sequence[str] = ()) -> list[PlannedRun]:
    """The runs of an experiment's figure.  Raises UserError where there is no such experiment."""
    experiment = read_experiment(name)
    return [PlannedRun(experiment, run, size, tuple(settings)) for run in experiment.runs]


@cache
def config_of(script: str, *overrides: str) -> DictConfig:
    """What a command composes, but for the settings that a sweep goes through."""
    single = [str(word.input_line) for word in parse(with_size([*overrides])) if not word.is_sweep_override()]
    return without_hydra(compose(script, single))


class Results:
    """The runs below folders of results, looked through once.

    roots: e.g. outputs and multirun.  size: of the experiments, ``paper`` or ``quick``.  settings: further overrides
    that they were run with.
    """

    def __init__(self, roots: Sequence[str | Path] = RESULTS, size: str = "paper", settings: Sequence[str] = ()):
        require(size in SIZES, "size", size, " or ".join(SIZES))
        self.roots, self.size, self.settings = list(roots), size, tuple(settings)

    @cached_property
    def found(self) -> list[Run]:
        return all_runs(self.roots)

    def runs(self, experiment: str, *names: str) -> list[Path]:
        """The folders of an experiment's runs, all or those named, e.g. ``runs("mnist", "local", "backprop")``.

        Of each the newest run, or all jobs of the newest sweep.  A finished run goes before one that is not, one as
        long and large as the experiment's before others, and one with exactly its settings before one with some of its
        own; of sweeps that with the most such jobs.  Prints the command for each that has none, and what a sweep lacks.
        Raises UserError where none has one.
        """
        by_name = {run.name: run for run in plan(experiment, self.size, self.settings)}
        if unknown := [name for name in names if name not in by_name]:
            raise UserError(f"experiment {experiment!r} has no run {unknown[0]!r}; expected {' or '.join(by_name)}")
        planned = [by_name[name] for name in names or by_name]
        found = [self.newest(run) for run in planned]
        missing = [f"no run of {p.title} yet: {p.command}" for p, runs in zip(planned, found, strict=True) if not runs]
        if len(missing) == len(planned):
            raise UserError("\n".join(missing))
        for p, runs in zip(planned, found, strict=True):
            if absent := set(p.jobs) - {p.values(run) for run in runs} if runs else set():
                missing.append(f"{p.title} lacks {', '.join(sorted(map(' '.join, absent), key=natural))}: {p.command}")
        drawn = [run for runs in found for run in runs]
        print(*missing, *(f"drawn from {run}" for run in drawn), sep="\n")
        return [run.folder for run in drawn]

    def newest(self, planned: PlannedRun, suits: Callable[[Run], bool] = lambda run: True) -> list[Run]:
        """Its newest run that suits, or all jobs of its newest sweep that have metrics, by number; empty where there is
        none.  A job that was skipped is the finished run that it stands for.
        """
        jobs = {run: stood_for(run) for run in self.found if planned.matches(run)}
        trained = {job: run for job, run in jobs.items() if run is not None and run.has_metrics and suits(run)}
        if not trained:
            return []

        def rank_of(job: Run) -> tuple:
            is_same_data = flatten(plain(job.config)).get("data.root") == planned.flat.get("data.root")
            is_as_asked = planned.matches_fully(job), planned.has_settings(job), is_same_data
            return trained[job].is_finished, *is_as_asked, job.started

        rank = {job: rank_of(job) for job in trained}
        if not planned.swept:
            return [trained[max(trained, key=rank.__getitem__)]]

        def worth(sweep: list[Run]) -> tuple:
            full = {planned.values(job) for job in sweep if rank[job][:2] == (True, True)}
            return len(full & {*planned.jobs}), max(rank[job] for job in sweep)

        return [trained[job] for job in max(sweeps_of(trained), key=worth)]


def stood_for(job: Run) -> Run | None:
    """The run itself, or that for which a sweep skipped it; None where that is gone."""
    with suppress(UserError):
        run = job.trained()
        if run is job or (run.script and run.settings):
            return run
    return job if job.has_metrics and not job.is_finished else None  # its summary is damaged


def sweeps_of(jobs: Iterable[Run]) -> list[list[Run]]:
    """Jobs by the folder of their sweep, each in the order of their folders' numbers."""
    sweeps: dict[Path, list[Run]] = {}
    for job in jobs:
        sweeps.setdefault(job.folder.parent, []).append(job)
    return [sorted(sweep, key=lambda job: natural(job.folder.name)) for sweep in sweeps.values()]


def in_words(value: Any) -> str:
    """A value of a sweep as a run's settings print it."""
    return value.text if isinstance(value, QuotedString) else str(value)


def is_complete(planned: PlannedRun, runs: Sequence[Run]) -> bool:
    """Whether a finished run, or a sweep whose jobs are all finished, has the settings and the extent of a plan."""
    full = [run for run in runs if planned.matches_fully(run) and (own := stood_for(run)) and own.is_finished]
    return any({*planned.jobs} <= {planned.values(job) for job in sweep} for sweep in sweeps_of(full))


def missing_command(planned: PlannedRun, runs: Sequence[Run]) -> list[str]:
    """The command line that makes what is missing; an interrupted run or sweep is resumed."""
    same = [run for run in runs if planned.matches_fully(run)]
    if planned.swept:
        begun = next((sweep for sweep in sweeps_of(same) if is_begun(planned, sweep)), None)
        return [*planned.words, *([f"hydra.sweep.dir={quote(begun[0].folder.parent)}"] if begun else [])]
    if not same:
        return planned.words
    cut = same[0]
    changeable = [word.input_line for word in parse(list(planned.settings)) if is_among(word.key_or_group, RESUMABLE)]
    return [planned.words[0], f"resume={cut.folder}", *map(str, changeable)]


def is_begun(planned: PlannedRun, jobs: Sequence[Run]) -> bool:
    """Whether jobs of one sweep are those of the plan, by number: one of other values would refuse its folder."""
    numbered = {str(number): values for number, values in enumerate(planned.jobs)}
    return all(numbered.get(job.folder.name) == planned.values(job) for job in jobs)


def run_missing(
    planned: Sequence[PlannedRun],
    roots: Sequence[str | Path] = RESULTS,
    call: Callable[[list[str]], int] = lambda words: subprocess.call([sys.executable, *words], cwd=ROOT),
) -> list[str]:
    """Make what has no finished run, one after the other; returns the titles of those that failed.

    call: runs a script with arguments, returns its exit code.  A run that a signal stopped stops all.
    """
    runs, failed = all_runs(roots), []
    for one in planned:
        if is_complete(one, runs):
            print(f"{one.title}: there already", flush=True)
            continue
        words = missing_command(one, runs)
        print(f"{one.title}: python {shlex.join(words)}", flush=True)
        code = call(words)
        if code == EXIT_RESUME:
            raise UserError(f"{one.title} was stopped; the same command resumes it")
        if code:
            failed.append(one.title)
    return failed


def draw(size: str, settings: Sequence[str]) -> Path:
    """Execute ``plotting.ipynb`` on runs of one size; returns where it is, beside its figures in ``build/``."""
    import nbformat
    from nbclient import NotebookClient

    path = ROOT / "build" / f"plotting-{size}.ipynb"
    path.parent.mkdir(exist_ok=True)
    notebook = nbformat.read(ROOT / "plotting.ipynb", as_version=4)
    figures = str(path.with_name(f"figures-{size}"))
    environment = {**os.environ, "SIZE": size, "SETTINGS": shlex.join(settings), "FIGURES": figures}
    NotebookClient(notebook, resources={"metadata": {"path": ROOT}}).execute(env=environment)
    nbformat.write(notebook, path)
    return path


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m projectlib.sweeps.experiments", description="Run what is missing.")
    known = experiment_names()
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all without one: {', '.join(known)}; or KEY=VALUE")
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--draw", action="store_true", help="then execute plotting.ipynb, into build/")
    options = parser.parse_intermixed_args(words)
    settings = [word for word in options.names if "=" in word]
    named = [word for word in options.names if "=" not in word] or known
    require((ROOT / "plotting.ipynb").is_file(), "the current folder", str(Path.cwd()), "a clone of the project")
    if options.draw and not all(map(find_spec, ("nbclient", "nbformat"))):
        raise UserError(not_installed("--draw", "biological-hsic[notebook]"))
    failed = run_missing([planned for name in named for planned in plan(name, options.size, settings)])
    if options.draw:
        print(f"drawn: {draw(options.size, settings)}")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MISTAKES as error:
        sys.exit(f"error: {explained(error, 'train-biohsic')}")
