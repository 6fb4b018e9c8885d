"""Search for settings: Optuna proposes them, one run per trial measures them, and bad runs end early.

A worker is a job like any other, on any launcher; workers share one study in a SQLite file.  Each trial is a run
folder of its own, so that one whose worker was killed is resumed from its checkpoint by another.
"""

import hashlib
import json
import logging
import re
import sqlite3
import stat
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, TrialPruned
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import MaxTrialsCallback, Study
from optuna.trial import FrozenTrial, Trial, TrialState

from projectlib.config.settings import plain, select
from projectlib.config.validation import MISSING
from projectlib.errors import Diverged, Interrupted, Pruned, UserError, one_line
from projectlib.runs.folder import refuse_links, write_settings
from projectlib.runs.history import DIRECTION
from projectlib.runs.loggers import Logger
from projectlib.runs.resume import hydra_settings
from projectlib.sweeps.jobs import as_text, resume_in_place, settings_digest
from projectlib.values import is_number, require

optuna.logging.disable_default_handler()
optuna.logging.enable_propagation()  # into the job's log
# it would warn of a mistake with its traceback; pruned trials are no warnings
logging.getLogger("optuna.study._optimize").addFilter(lambda record: record.levelno != logging.WARNING)
warnings.filterwarnings("ignore", category=ExperimentalWarning)  # the heartbeat: there since 2.8, still so called

RETRY = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
SILENT = 4  # heartbeats missed before a trial is taken for dead

log = logging.getLogger(__name__)


class PruningLogger(Logger):
    """Reports the objective of every epoch to a trial, and ends it where the study says so."""

    def __init__(self, trial: Trial, objective: str):
        self.trial, self.objective = trial, objective

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 0:
            return
        if self.objective not in metrics:
            expected = f"one of {', '.join(metrics)}; for a validation split set data.validation=0.1"
            raise UserError(f"objective is {self.objective!r}, which is not measured; expected {expected}")
        self.trial.report(metrics[self.objective], epoch)
        if self.trial.should_prune():
            raise Pruned(f"{self.objective} {metrics[self.objective]:.4g} after epoch {epoch}")


def run_worker(config: DictConfig, train: Callable[..., float | None]) -> float | None:
    """One worker: run trials until the study has ``search.trials`` of them.  Returns the best objective.

    train: as ``projectlib.cli.job.train``.
    Raises UserError for a space or a direction that makes no sense and for a study of other settings.
    """
    search, folder = config.search, Path(config.search.folder).expanduser()
    better = {1: "maximize", -1: "minimize", None: search.direction}[DIRECTION.get(config.objective.split("/")[1])]
    expected = f"{better}, with objective={config.objective}"
    require(search.direction == better, "search.direction", search.direction, expected)
    base = config.copy()
    base.search = None
    space = {key: distribution(key, bounds, base) for key, bounds in plain(search.space).items()}
    about = {"settings": settings_digest(base), "objective": base.objective, "space": plain(search.space)}
    own = {key: select(base, key) for key in space}
    study = open_study(search, folder, about, {key: value for key, value in own.items() if fits(value, space[key])})

    def run_trial(trial: Trial) -> Any:
        trial_folder = folder_of(study.get_trials(deepcopy=False)[trial.number], folder)
        chosen = with_values(base, {key: suggest(trial, key, values) for key, values in space.items()})
        refuse_links(trial_folder)
        write_settings(trial_folder, **hydra_settings(), config=chosen)  # a run folder like any other
        resume_in_place(chosen, trial_folder)
        try:
            return train(chosen, trial_folder, search.worker, [PruningLogger(trial, base.objective)])
        except (Diverged, Pruned) as error:
            raise TrialPruned(str(error)) from None
        except Interrupted:
            RETRY(study, study.get_trials(deepcopy=False)[trial.number])  # with the values that it has by now
            raise

    if len(study.get_trials(deepcopy=False, states=DONE)) < search.trials:
        study.optimize(run_trial, callbacks=[MaxTrialsCallback(search.trials, DONE)])
    return conclude(study, folder, base)


def open_study(search: DictConfig, folder: Path, about: dict[str, Any], first: dict[str, Any]) -> Study:
    """The study in ``folder``, made by the first worker to come.

    about: what its trials have in common; its sampler is seeded with that, so that two searches do not begin with the
    same points.  first: values of the first trial, which draws what is not among them.  Raises UserError where the
    study's own settings are others, or it is none.
    """
    path, text = folder / "study.db", json.dumps(about, sort_keys=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        check_database(path)
        # two workers that both find no file would both make its tables
        with FileLock(folder / ".study-lock", fallback_to_soft=False):
            storage = RDBStorage(
                f"sqlite:///{path.absolute()}",
                engine_kwargs={"connect_args": {"timeout": 60}},  # seconds to wait while another worker writes
                heartbeat_interval=search.heartbeat,
                grace_period=SILENT * search.heartbeat,
                heartbeat_stale_trial_callback=RETRY,
            )
            study = optuna.create_study(
                storage=storage, study_name="search", direction=search.direction, load_if_exists=True
            )
            if study.user_attrs.get("about", text) != text:
                raise ValueError("it is a search of other settings, which only the command that began it goes on with")
            study.set_user_attr("about", text)
            study.enqueue_trial(first, skip_if_exists=True)
        check_trials(study.trials, about["space"])
    except Exception as error:  # whatever a file that may be any database makes SQLite, SQLAlchemy and Optuna raise
        expected = "expected a study that this search wrote, or none: choose another search.folder"
        raise UserError(f"{path} cannot be used ({one_line(error):.200}); {expected}") from None
    digest = hashlib.sha256(f"{text} {search.worker} {len(study.trials)}".encode()).digest()
    study.sampler = optuna.samplers.TPESampler(
        n_startup_trials=search.startup, multivariate=True, seed=int.from_bytes(digest[:4], "little")
    )
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=search.startup)
    return study


def check_database(path: Path) -> None:
    """Raises ValueError where a study would be read from no file, or from a database that does more than hold tables.

    A view or a trigger runs whenever a table of its name is used, for as long as it likes.
    """
    for part in path.parent.glob(f"{path.name}*"):
        with suppress(FileNotFoundError):  # the journal of another worker, which is done
            if not stat.S_ISREG(part.lstat().st_mode):
                raise ValueError(f"{part.name} is no file")
    if path.exists():
        with closing(sqlite3.connect(path, timeout=60)) as database:
            found = {kind for (kind,) in database.execute("SELECT DISTINCT type FROM sqlite_master")}
        if more := found - {"table", "index"}:
            raise ValueError(f"it has a {more.pop()}")


def check_trials(trials: list[FrozenTrial], space: dict[str, Any]) -> None:
    """Raises ValueError where a finished trial does not belong to this search: its value may be taken for the best."""
    for trial in trials:
        if trial.state in DONE and not trial.params.keys() <= space.keys():
            raise ValueError(f"trial {trial.number} has {', '.join(trial.params)}")
        if trial.state == TrialState.COMPLETE and not is_number(trial.value):
            raise ValueError(f"trial {trial.number} is worth {trial.value!r:.50}")
        if type(RETRY.retried_trial_number(trial) or 0) is not int:
            raise ValueError(f"trial {trial.number} has no number that it repeats")


def folder_of(trial: FrozenTrial, folder: Path) -> Path:
    """The run folder of a trial: that of the first attempt, where an earlier worker was killed."""
    first = RETRY.retried_trial_number(trial)
    return folder / f"{trial.number if first is None else first:04d}"


def distribution(key: str, bounds: Any, config: DictConfig) -> BaseDistribution:
    """The values that a search tries for a key.  Raises UserError for invalid bounds, or if there is no such key."""
    if OmegaConf.select(config, key, default=MISSING) is MISSING:
        raise UserError(f"search.space has {key!r}; expected settings of this script")
    try:
        if "choices" in bounds:
            return CategoricalDistribution(**bounds)
        is_whole = isinstance(bounds["low"], int) and isinstance(bounds["high"], int)
        return (IntDistribution if is_whole else FloatDistribution)(**bounds)
    except (KeyError, TypeError, ValueError) as error:
        refused = f"search.space has {key}: {bounds}, which is refused ({one_line(error)})"
        raise UserError(f"{refused}; expected {{low, high}} or {{choices}}: search.space={{{key}:{{...}}}}") from None


def fits(value: Any, values: Any) -> bool:
    """Whether a setting is among the values (a ``distribution``) that are tried for it."""
    if isinstance(values, CategoricalDistribution):
        return value in values.choices
    return is_number(value) and values.low <= value <= values.high


def suggest(trial: Trial, key: str, values: Any) -> Any:
    """The trial's value for one key of the space.  values: its ``distribution``."""
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(key, values.choices)
    choose = trial.suggest_int if isinstance(values, IntDistribution) else trial.suggest_float
    return choose(key, values.low, values.high, step=values.step, log=values.log)


def with_values(config: DictConfig, values: dict[str, Any]) -> DictConfig:
    """A copy of a config with other values; a key ``hsic.sigmas.0`` names an item of a list."""
    changed = config.copy()
    for key, value in values.items():
        OmegaConf.update(changed, key, value)
    return changed


def conclude(study: Study, folder: Path, base: DictConfig) -> float:
    """Print the best trial as the overrides that repeat it; returns its objective.

    Raises UserError where none finished.
    """
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise UserError(f"no trial of {len(study.trials)} in {folder} finished; expected one: narrow search.space")
    best = study.best_trial
    chosen = with_values(base, best.params)
    keys = dict.fromkeys(re.sub(r"(\.\d+)+$", "", key) for key in best.params)  # a list is overridden as a whole
    values = {key: select(chosen, key) for key in keys}
    overrides = " ".join(f"{key}={'null' if value is None else as_text(value)}" for key, value in values.items())
    log.info("%d trials in %s: python -m projectlib.sweeps.collect %s", len(study.trials), folder, folder)
    log.info("best objective %.4f in %s: %s", best.value, folder_of(best, folder), overrides)
    assert best.value is not None  # as it finished
    return best.value
