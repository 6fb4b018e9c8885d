"""One job as Hydra calls it, in this process or in a launcher's worker: checks, plugins, and how it ends."""

import logging
import sys
import tempfile
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from projectlib.cli.interrupts import ignore_signals, signal_previous_listener
from projectlib.config.plugins import import_plugins, require_plugins
from projectlib.config.settings import settled
from projectlib.config.validation import refuse_additions, refuse_ignored, validate
from projectlib.errors import CLOSED, EXIT_RESUME, FULL, Interrupted, UserError, not_installed, one_line, system_problem
from projectlib.garbage import paused_collector
from projectlib.runs.files import locked
from projectlib.runs.folder import is_finished, missing_folders, read_summary, remove_unbegun, write_summary
from projectlib.runs.resume import keep_settings, resumed_config, sets
from projectlib.runs.run import Run
from projectlib.sweeps.jobs import finished_run, note_finished, objective, resume_in_place
from projectlib.sweeps.launchers import is_joblib, limit_threads

KNOWN = (UserError, OmegaConfBaseException)
"""Mistakes in the input, which their message explains."""

log = logging.getLogger(__name__)

STOPPED_BY: list[str] = []  # the signal that stopped a job of this worker


class FailedJob(HydraException):
    """A job that failed, told in the log: Hydra goes on with the other jobs of a sweep."""


@dataclass(frozen=True)
class Job:
    """A composed config, trained or scored in the run folder that Hydra made.

    The user's overrides are kept here and not in the config, which a file may fill; they travel to a launcher's
    workers.

    plugins: modules that the config may name.  folders: where they are looked for.
    resumed: the overrides that a run is resumed with; None for a new one.
    made: the folders that Hydra makes for a new run, the innermost first; a job of a sweep keeps its folder.
    """

    plugins: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    resumed: tuple[str, ...] | None = None
    made: tuple[Path, ...] = ()

    def __call__(self, config: DictConfig) -> float | None:
        """The objective.  Raises UserError for a mistake, and Interrupted where a signal stopped the run."""
        folder = Path(HydraConfig.get().runtime.output_dir)
        is_new = False
        try:
            if self.resumed is not None:
                config = resumed_config(config, folder, list(self.resumed))
            else:
                with suppress(OmegaConfBaseException):  # validation says which key it is
                    config = settled(config)
                config.resume = None
                with locked(folder):
                    is_new = keep_settings(config, folder)
            return self.work(config, folder)
        except Exception as error:
            if is_new and not read_summary(folder):
                with suppress(OSError):  # a full disk, perhaps, is what has to be told
                    is_mistake = isinstance(error, KNOWN) and f"resume={folder}" not in str(error)
                    if not (is_mistake and remove_unbegun(self.made)):
                        status = "interrupted" if isinstance(error, Interrupted) else "failed"
                        write_summary(folder, {"status": status, "error": str(error)})
            raise

    def work(self, config: DictConfig, folder: Path) -> float | None:
        hydra: Any = HydraConfig.get()  # a DictConfig of Hydra's own settings
        refuse_additions(config, hydra)
        validate(config)
        if hydra.mode == RunMode.MULTIRUN:
            limit_threads(hydra.launcher)  # before a plugin imports torch, which counts the cores once
        with paused_collector():
            import_plugins(self.plugins, self.folders)
        require_plugins(config.plugins, str(folder) if self.resumed is not None else "a config file's run")
        refuse_ignored(config, hydra)
        if hydra.mode == RunMode.MULTIRUN and config.evaluate is None and config.search is None:
            return sweep_job(config, folder, hydra.job)
        with paused_collector():  # seconds of imports, for a config that is sound
            from projectlib.cli.job import evaluate_run, train
            from projectlib.data import downloads

        if config.evaluate is not None:
            return evaluate_run(config, folder)
        if config.search is not None:
            try:
                from projectlib.sweeps.search import run_worker
            except ModuleNotFoundError as error:
                raise UserError(not_installed("search=", error.name or "optuna")) from None
            best = run_worker(config, train)
            write_summary(folder, {"status": "searched", "study": config.search.folder})
            return best
        with downloads(allowed=self.resumed is None or sets(self.resumed, "data.root", "data.source.root")):
            return train(config, folder)


@dataclass(frozen=True)
class CommandLineJob(Job):
    """A job that ends as a command does: with one line in the log, and an exit code.

    A worker of joblib's may not exit, which would end the others at once: it begins no more jobs.
    """

    def __call__(self, config: DictConfig) -> float | None:
        if STOPPED_BY:
            return None
        try:
            return super().__call__(config)
        except Interrupted as error:
            folder = HydraConfig.get().runtime.output_dir
            log.warning("stopped by %s after a checkpoint; resume it with resume=%s", error, folder)
            signal_previous_listener(str(error))
            ignore_signals()
            if HydraConfig.get().mode == RunMode.MULTIRUN and is_joblib(HydraConfig.get().launcher):
                STOPPED_BY.append(str(error))
                return None
            sys.exit(EXIT_RESUME)
        except Exception as error:
            log.error("%s", explanation(error))
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                sys.exit(1)
            failed = FailedJob(str(error))
        raise failed  # here, where no context of its keeps the frames of the run, and with them its tensors


def with_new_folders(job: Job, config: DictConfig) -> Job:
    """``job`` with the folders that Hydra is about to make for it; unchanged if only Hydra can resolve their names."""
    with suppress(OmegaConfBaseException):
        return replace(job, made=missing_folders(str(config.hydra.run.dir)))
    return job


def explanation(error: Exception) -> str:
    """One line: of a mistake what it says, of a full disk or GPU and their like what was refused."""
    if isinstance(error, OSError) and error.errno in (*FULL, *CLOSED):
        return system_problem(error, HydraConfig.get().runtime.output_dir)
    if isinstance(error, KNOWN):
        return one_line(error)
    torch = sys.modules.get("torch")  # it takes seconds to import, and without it no GPU was full
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return (
            f"{one_line(error).partition('. ')[0]}; expected fewer models (nmodels), a smaller data.test_batchsize, or "
            "a GPU that nothing else uses"
        )
    return unforeseen(error)


def unforeseen(error: Exception) -> str:
    """One line for an unexpected error; its traceback goes to the log file, or to a temporary one."""
    files = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
    options: Any = {"mode": "a", "encoding": "utf-8", "errors": "backslashreplace"}
    temporary = partial(tempfile.NamedTemporaryFile, prefix="biohsic-", suffix=".log", delete=False)
    with open(files[0].baseFilename, **options) if files else temporary(**options) as file:
        file.writelines(traceback.format_exception(error))
    return f"{type(error).__name__}: {one_line(error)[:300]} (unforeseen: its traceback is in {file.name})"


def sweep_job(config: DictConfig, folder: Path, job: DictConfig) -> float | None:
    """One job of a sweep: begun, resumed in its own folder, or skipped because its run is finished.

    job: Hydra's, with the config's name and the job's number.
    """
    length = Run(folder).get("training.nepochs")  # all else is as asked: it would have been refused
    finished = folder if is_finished(folder) and length == config.training.nepochs else None
    if finished is None and config.sweep.skip_finished:
        finished = finished_run(job.name, config)
    if finished is not None:
        log.info("skipped: finished in %s", finished)
        if finished != folder:
            write_summary(folder, {"status": "skipped", "finished_in": str(finished)})
        return objective(read_summary(finished).get("metrics", {}), config.objective)
    from projectlib.cli.job import train

    resume_in_place(config, folder)
    try:
        return train(config, folder, job.num)
    finally:
        if is_finished(folder):  # also where a signal that came too late ends the sweep after it
            with suppress(OSError):  # only skip_finished of another sweep misses it
                note_finished(job.name, config, folder)
