"""What the entry scripts share: arguments, resuming, one line for a mistake, and exit codes.

Nothing heavy is imported before the arguments are known to be sound.
"""

import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from projectlib.cli.interrupts import EXIT_RESUME, ignore_signals, signal_previous_listener
from projectlib.config.experiments import with_size
from projectlib.config.messages import one_line
from projectlib.config.plugins import guard_hydra
from projectlib.config.validation import refuse_additions, validate
from projectlib.errors import Interrupted, UserError
from projectlib.garbage import leave_everything_at_exit, paused_collector
from projectlib.runs.files import write_text
from projectlib.runs.resume import CONFIGS, keep_settings, resumed_arguments
from projectlib.sweeps.jobs import finished_run, note_finished, objective, read_summary, resume_in_place
from projectlib.sweeps.launchers import limit_threads, set_launcher_defaults

log = logging.getLogger(__name__)


class FailedJob(HydraException):
    """A user's mistake in one job of a sweep, told in the log: Hydra goes on with the other jobs."""


def launch(main: Callable) -> None:
    """Run a script's ``main``, decorated by ``hydra.main``, on the command line.

    Exit codes: 0 finished, 1 a mistake in the input or a failed run, 75 stopped by a signal after a checkpoint,
    128 + the signal's number stopped at once.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra's own mistakes come here, to be told in one line
    logging.raiseExceptions = False  # on a full disk the log would bury the reason under tracebacks of its own
    guard_hydra()
    set_launcher_defaults()
    leave_everything_at_exit()
    try:
        script, arguments = Path(sys.argv[0]).stem, sys.argv[1:]
        arguments = with_size(arguments, [CONFIGS])
        sys.argv[1:] = [*resumed_arguments(script, arguments), *chosen_for_help(arguments)]
        # Hydra copies every config twice to list them
        with paused_collector() if asks_for_help(arguments) else nullcontext():
            main()
    except FailedJob:
        sys.exit(1)  # its line is in the log
    except (UserError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {one_line(error, script)}")
    except OSError as error:
        sys.exit(f"error: cannot write {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit("stopped before training began")


def asks_for_help(arguments: list[str]) -> bool:
    return any(argument in ("-h", "--help") for argument in arguments)


def chosen_for_help(arguments: list[str]) -> list[str]:
    """A data set for ``--help`` to show settings of, where the script needs one and none is named."""
    named = any(argument.startswith("data=") for argument in arguments)
    return ["data=mnist"] if asks_for_help(arguments) and not named else []


def run(config: DictConfig) -> float | None:
    """One job of a script, in the run folder that Hydra made; returns its objective."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    try:
        if not config.resume:
            keep_settings(config, folder)
        try:
            refuse_additions(config, hydra)
            validate(config)
        except UserError as error:
            if not config.resume:
                summary = json.dumps({"status": "failed", "error": str(error)}, indent=2)
                write_text(folder / "summary.json", summary + "\n")
            raise
        if hydra.mode == RunMode.MULTIRUN:
            limit_threads(hydra.launcher)
            if config.evaluate is None and config.search is None:
                return sweep_job(config, folder, hydra.job)
        with paused_collector():  # seconds of imports, for a config that is sound
            from projectlib.cli.job import evaluate_run, train

        if config.evaluate is not None:
            return evaluate_run(config, folder)
        if config.search is not None:
            from projectlib.sweeps.search import work

            return work(config, train)
        return train(config, folder)
    except UserError as error:
        log.error("%s", error)
        if hydra.mode == RunMode.MULTIRUN:
            raise FailedJob(str(error)) from error
        sys.exit(1)
    except Interrupted as error:
        log.warning("stopped by %s after a checkpoint; go on with resume=%s", error, folder)
        signal_previous_listener(str(error))
        ignore_signals()
        sys.exit(EXIT_RESUME)


def sweep_job(config: DictConfig, folder: Path, job: DictConfig) -> float | None:
    """One job of a sweep: begun, gone on with in its own folder, or skipped because its run is finished.

    job: Hydra's, with the script's name and the job's number.
    """
    finished = finished_run(job.name, config)
    if finished is not None and (finished == folder or config.sweep.skip_finished):
        log.info("skipped: finished in %s", finished)
        if finished != folder:
            write_text(folder / "summary.json", json.dumps({"status": "skipped", "finished_in": str(finished)}) + "\n")
        return objective(read_summary(finished)["metrics"], config.objective)
    from projectlib.cli.job import train

    resume_in_place(config, folder)
    value = train(config, folder, job.num)
    note_finished(job.name, config, folder)
    return value
