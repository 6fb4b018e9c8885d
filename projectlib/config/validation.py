"""What a config's values must be, checked before anything heavy is imported or written."""

import re
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projectlib.config.settings import flatten, plain
from projectlib.errors import UserError
from projectlib.values import is_count, is_number

SECTIONS = ("training", "checkpointing", "sweep", "data", "hsic")
BUILT = ("data.source", "model", "rule", "optimizer", "lr_schedule", "logger")


def is_objective(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(train|validation)/\w+", value) is not None


SEED = (lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 2**63, "a whole number of at least 0")
COUNT = (is_count, "a whole number of at least 1")
POSITIVE = (lambda v: is_number(v) and v > 0, "a number above 0")
NOT_NEGATIVE = (lambda v: is_number(v) and v >= 0, "a number of at least 0")
FLAG = (lambda v: isinstance(v, bool), "true or false")

# a key that a config lacks is not checked
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": SEED,
    "data.seed": SEED,
    "nmodels": COUNT,
    "task": (lambda v: v in ("network", "reservoir"), "network or reservoir"),
    "device": (lambda v: isinstance(v, str), "auto, cpu, cuda, cuda:0 or mps"),
    "evaluate": (lambda v: v is None or isinstance(v, str), "a run folder, or null"),
    "checkpointing.path": (lambda v: isinstance(v, str) and v != "", "a folder"),
    "objective": (is_objective, "train/ or validation/ and a metric: a search never sees the test set"),
    "sweep.skip_finished": FLAG,
    "search": (lambda v: v is None or isinstance(v, dict), "null, or a table of settings, as search=digits brings it"),
    "search.folder": (lambda v: isinstance(v, str) and v != "", "a folder"),
    "search.space": (lambda v: isinstance(v, dict), "a table: a key: {low, high} or {choices}"),
    "search.trials": COUNT,
    "search.worker": SEED,
    "search.startup": SEED,
    "search.heartbeat": COUNT,
    "plugins": (
        lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v),
        "a list of modules: plugins=[my_rules]",
    ),
    "engine": (lambda v: v in ("auto", "eager", "compiled"), "auto, eager or compiled"),
    "training.nepochs": COUNT,
    "training.log_interval": COUNT,
    "training.log_hsic": FLAG,
    "training.log_arrays": (
        lambda v: isinstance(v, list) and all(e == 0 or is_count(e) for e in v),
        "a list of epochs, 0 for before training",
    ),
    "training.time_step": POSITIVE,
    "training.sample_timesteps": COUNT,
    "checkpointing.rate": COUNT,
    "checkpointing.minutes": (lambda v: v is None or (is_number(v) and v > 0), "a number of minutes or null"),
    "data.batchsize": COUNT,
    "data.test_batchsize": COUNT,
    "data.nsamples": COUNT,
    "data.ntimesteps": COUNT,
    "data.zdim": COUNT,
    "optimizer.lr": POSITIVE,
    "optimizer.readout_lr": (lambda v: v is None or (is_number(v) and v > 0), "a number above 0, or null for lr"),
    "optimizer.accumulate": COUNT,
    "readout.window": COUNT,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.eps": NOT_NEGATIVE,
    "optimizer.betas": (lambda v: isinstance(v, list) and len(v) == 2 and all(map(is_number, v)), "two numbers"),
    "data.source.seed": SEED,
    "model.num_timesteps": COUNT,
    "rule.modulator": (
        lambda v: v is None or (isinstance(v, dict) and "_target_" in v),
        "null, or a modulator as modulator=window brings it",
    ),
    "lr_schedule.gamma": POSITIVE,
    "lr_schedule.eta_min": NOT_NEGATIVE,
    "lr_schedule.T_max": COUNT,
    "lr_schedule.milestones": (lambda v: isinstance(v, list) and all(map(is_count, v)), "a list of epochs"),
}


def check_sections(config: DictConfig) -> None:
    """Raises UserError where what must be a table of settings is a value, a list, or missing."""
    for key in (*SECTIONS, *BUILT):
        node = OmegaConf.select(config, key)
        if not OmegaConf.is_dict(node):
            raise UserError(f"{key} is {node!r}; expected a table of settings, as in configs/")
        if key in BUILT and not isinstance(node.get("_target_"), str):
            raise UserError(f"{key}._target_ is {node.get('_target_')!r}; expected the name of a function or a class")


def validate(config: DictConfig) -> None:
    """Raises UserError naming the first key whose value is missing or not what it must be."""
    if missing := [key for key, value in flatten(plain(config)) if value == "???"]:
        raise UserError(f"{missing[0]} has no value; expected one: type {missing[0]}=...")
    try:
        OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        reason, group = str(error).splitlines()[0], str(error.full_key).split(".")[0]
        raise UserError(
            f"{error.full_key} has no value ({reason}); expected a {group}= that suits this script: choose another"
        ) from None
    check_sections(config)
    for key, (is_valid, expected) in CHECKS.items():
        value = OmegaConf.select(config, key, default=MISSING)
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        if value is not MISSING and not is_valid(value):
            raise UserError(f"{key} is {value!r}; expected {expected}")


def refuse_additions(config: DictConfig, hydra: DictConfig) -> None:
    """Raises UserError for a key that was added (``+key=value``) where nothing would read it.

    What is built from a ``_target_`` takes further keys, and refuses those that it does not know.
    hydra: Hydra's settings of the job.
    """
    for line in hydra.overrides.task:
        key = line.split("=")[0].lstrip("+").split("@")[0]
        if not line.startswith("+") or key in hydra.runtime.choices:
            continue
        parents = [OmegaConf.select(config, key.rsplit(".", depth)[0]) for depth in range(1, key.count(".") + 1)]
        if not any(OmegaConf.is_dict(parent) and "_target_" in parent for parent in parents):
            raise UserError(f"{line} would have no effect, or needs no +: expected a setting that --help lists")


def refuse_ignored(config: DictConfig, hydra: DictConfig) -> None:
    """Raises UserError for a setting of windows that the person made, and that a memory ignores.

    hydra: Hydra's settings of the job.
    """
    modulator = hydra.runtime.choices.get("modulator")
    if modulator not in MEMORIES:
        return
    used = ("hsic.gamma", "hsic.sigmas") if config.modulator.get("signal") in ("published", "exact") else ()
    for line in hydra.overrides.task:
        key, _, value = line.lstrip("+").partition("=")
        is_window = any(f"{key}.".startswith(f"{name}.") for name in ("data.batchsize", "hsic"))
        asks_hsic = key == "training.log_hsic" and value.lower() != "false"
        if asks_hsic or (is_window and not key.startswith(used)):
            raise UserError(
                f"{line} has no effect with modulator={modulator}, which sees one sample at a time; leave it out, or "
                "use modulator=window"
            )


MEMORIES = ("remembered", "covariance", "delta", "class-means")
MISSING = object()
