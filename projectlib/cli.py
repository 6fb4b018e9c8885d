"""What the entry scripts share: arguments, resuming, one line for a mistake, and exit codes.

Nothing heavy is imported before the arguments are known to be sound.
"""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from projectlib.errors import UserError
from projectlib.files import write_text
from projectlib.interrupts import EXIT_RESUME, Interrupted
from projectlib.resume import resumed_arguments
from projectlib.validation import validate

log = logging.getLogger(__name__)


class FailedJob(HydraException):
    """A user's mistake in one job of a sweep: Hydra prints its line and goes on with the other jobs."""


def launch(main: Callable) -> None:
    """Run a script's ``main``, decorated by ``hydra.main``, on the command line.

    Exit codes: 0 finished, 1 a mistake in the input or a failed run, 75 stopped by a signal after a checkpoint.
    """
    try:
        sys.argv[1:] = resumed_arguments(Path(sys.argv[0]).stem, sys.argv[1:])
        main()
    except UserError as error:
        sys.exit(f"error: {error}")


def run(config: DictConfig) -> float | None:
    """One job of a script, in the run folder that Hydra made; returns its objective."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    try:
        try:
            validate(config)
        except UserError as error:
            write_text(folder / "summary.json", json.dumps({"status": "failed", "error": str(error)}) + "\n")
            raise
        from projectlib.job import evaluate_run, train  # seconds of imports, for a config that is sound

        if config.evaluate is not None:
            return evaluate_run(config)
        return train(config, folder)
    except UserError as error:
        log.error("%s", error)
        if hydra.mode == RunMode.MULTIRUN:
            raise FailedJob(str(error)) from error
        sys.exit(1)
    except Interrupted as error:
        log.warning("stopped by %s after a checkpoint; go on with resume=%s", error, folder)
        sys.exit(EXIT_RESUME)
