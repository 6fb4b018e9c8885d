"""Training from Python, as the entry scripts do it and without a shell."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from projectlib.cli.hydra_job import Job, with_new_folders
from projectlib.cli.main import plan
from projectlib.config.compose import make_loader
from projectlib.config.messages import explained
from projectlib.errors import Interrupted, UserError
from projectlib.runs.load import TrainedRun, load


def train(config_name: str, *overrides: str, config_dir: str | Path | None = None) -> TrainedRun:
    """Train a config in a run folder below the current one, and load the run.

    config_name: e.g. ``train-biohsic``.  overrides: as on the command line, e.g. ``data=digits``, ``plugins=[mine]``,
    ``resume=auto``.  config_dir: a folder of configs of one's own; plugins are looked for beside it, too.
    Raises UserError for a mistake, and Interrupted where a signal (Ctrl-C) stopped the run after a checkpoint.
    """
    try:
        job, composed_from, finished = plan(Job, config_name, list(overrides), config_dir)
        return load(finished or run_in_folder(job, config_name, composed_from, config_dir))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explained(error, config_name)) from None


def run_in_folder(job: Job, config_name: str, overrides: list[str], config_dir: str | Path | None) -> Path:
    """Run one job as Hydra does, but for its logging; returns the run folder."""
    loader, threads = make_loader(config_dir), torch.get_num_threads()
    config: Any = loader.load_configuration(config_name, overrides, RunMode.RUN)
    if config.evaluate is not None or config.search is not None:
        raise UserError("projectlib.train trains one run; expected no evaluate= or search=")
    config.hydra.mode = RunMode.RUN
    job = with_new_folders(job, config)

    def task(settings: DictConfig) -> Exception | None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            with logged(folder / f"{HydraConfig.get().job.name}.log"):
                job(settings)
        except Interrupted as error:
            return Interrupted(f"{error}: stopped after a checkpoint; resume it with resume={folder}")
        except Exception as error:  # of one that is raised Hydra would print a line of its own
            return error
        return None

    try:
        context = HydraContext(loader, Callbacks())
        done: Any = run_job(task, config, "hydra.run.dir", None, context, configure_logging=False)
    finally:
        torch.set_num_threads(threads)
    if done.return_value is not None:
        raise done.return_value
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
