"""Training from Python, as the entry scripts do it and without a shell."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from projectlib.cli.hydra_job import Job
from projectlib.cli.main import plan
from projectlib.config.compose import make_hydra
from projectlib.config.messages import one_line
from projectlib.errors import Interrupted, UserError
from projectlib.runs.load import TrainedRun, load

log = logging.getLogger(__name__)


def train(config_name: str, *overrides: str, config_dir: str | Path | None = None) -> TrainedRun:
    """Train a config in a run folder below the current one, and load the run.

    config_name: e.g. ``train-biohsic``.  overrides: as on the command line, e.g. ``data=digits``, ``plugins=[mine]``,
    ``resume=auto``.  config_dir: a folder of configs of one's own; plugins are looked for beside it, too.
    Raises UserError for a mistake, and Interrupted where a signal (Ctrl-C) stopped the run after a checkpoint.
    """
    try:
        planned = plan(Job, config_name, list(overrides), config_dir)
        if planned.finished is not None:
            return load(planned.finished)
        return load(run_job(planned.job, config_name, planned.overrides, config_dir))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error, config_name)) from None


def run_job(job: Job, config_name: str, overrides: list[str], config_dir: str | Path | None) -> Path:
    """Run one job as Hydra does; all that it changes of this process is put back.  Returns the run folder."""
    mistake: Exception | None = None

    def task(config: DictConfig) -> None:
        nonlocal mistake
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            if config.evaluate is not None or config.search is not None:
                raise UserError("projectlib.train trains one run; expected no evaluate= or search=")
            with logged(folder / f"{HydraConfig.get().job.name}.log"):
                job(config)
        except Interrupted as error:
            mistake = Interrupted(f"{error}: stopped after a checkpoint; resume it with resume={folder}")
        except Exception as error:  # Hydra would print a line of its own beside it
            mistake = error

    hydra, instance = make_hydra(config_name, config_dir), GlobalHydra.instance()
    before, threads = instance.hydra, torch.get_num_threads()
    instance.hydra = hydra
    try:
        done: Any = hydra.run(config_name, task, overrides, with_log_configuration=False)
    finally:
        instance.hydra = before
        torch.set_num_threads(threads)
    if mistake is not None:
        raise mistake
    return Path(done.hydra_cfg.hydra.runtime.output_dir)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """What the project logs goes to a file, and is printed where the caller configured no logging."""
    logger, file = logging.getLogger("projectlib"), logging.FileHandler(path, delay=True, encoding="utf-8")
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    handlers = [file, *([] if logging.getLogger().handlers else [logging.StreamHandler(sys.stdout)])]
    level = logger.level
    logger.setLevel(logging.INFO)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)
        file.close()
