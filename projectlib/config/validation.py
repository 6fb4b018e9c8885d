"""What a config's values must be, checked before anything heavy is imported or written."""

import math
import re
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projectlib.errors import UserError
from projectlib.runs.resume import flatten

SMALLEST, LARGEST = 1e-15, 1e15  # bandwidths whose squares are still float32 numbers
RULES_WITH_KERNELS = ("projectlib.rules.BioHSIC", "projectlib.rules.HSIC", "projectlib.rules.Delta")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_bandwidth(value: Any) -> bool:
    return is_number(value) and SMALLEST <= value <= LARGEST


def is_objective(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(train|validation)/\w+", value) is not None


SEED = (lambda v: isinstance(v, int) and 0 <= v < 2**63, "a whole number of at least 0")
COUNT = (is_count, "a whole number of at least 1")
POSITIVE = (lambda v: is_number(v) and v > 0, "a number above 0")
NOT_NEGATIVE = (lambda v: is_number(v) and v >= 0, "a number of at least 0")
NUMBER = (is_number, "a finite number")
FLAG = (lambda v: isinstance(v, bool), "true or false")
BANDWIDTH = f"from {SMALLEST:g} to {LARGEST:g}"

# a key that a config lacks is not checked
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": SEED,
    "data.seed": SEED,
    "nmodels": COUNT,
    "objective": (is_objective, "train/ or validation/ and a metric: a search never sees the test set"),
    "sweep.skip_finished": FLAG,
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
    "model.features": (
        lambda v: isinstance(v, list) and all(map(is_count, v)),
        "a list of whole numbers of at least 1",
    ),
    "model.nhidden": COUNT,
    "model.time_constant": POSITIVE,
    "model.recurrent_strength": NUMBER,
    "model.noise": NOT_NEGATIVE,
    "modulator.nhidden": COUNT,
    "modulator.time_constant": POSITIVE,
    "modulator.recurrent_strength": NUMBER,
    "modulator.learning_rate": POSITIVE,
    "modulator.seed": SEED,
    "hsic.gamma": NUMBER,
    "hsic.sigma": (is_bandwidth, f"a bandwidth {BANDWIDTH}"),
    "hsic.sigmas": (
        lambda v: isinstance(v, list) and len(v) == 3 and all(map(is_bandwidth, v)),
        f"three bandwidths (of inputs, labels and activations) {BANDWIDTH}",
    ),
    "hsic.form": (lambda v: v in ("published", "exact", "parzen"), "published, exact or parzen"),
    "optimizer.lr": POSITIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.eps": NOT_NEGATIVE,
    "lr_schedule.gamma": POSITIVE,
    "lr_schedule.eta_min": NOT_NEGATIVE,
    "lr_schedule.T_max": COUNT,
    "lr_schedule.milestones": (lambda v: isinstance(v, list) and all(map(is_count, v)), "a list of epochs"),
}


def validate(config: DictConfig) -> None:
    """Raises UserError naming the first key whose value is missing or not what it must be."""
    if missing := [key for key, value in flatten(OmegaConf.to_container(config)) if value == "???"]:
        raise UserError(f"{missing[0]} has no value; expected one: type {missing[0]}=...")
    try:
        OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        reason, group = str(error).splitlines()[0], str(error.full_key).split(".")[0]
        raise UserError(
            f"{error.full_key} has no value ({reason}); expected a {group}= that suits this script: choose another"
        ) from None
    for key, (is_valid, expected) in CHECKS.items():
        value = OmegaConf.select(config, key, default=MISSING)
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        if value is not MISSING and not is_valid(value):
            raise UserError(f"{key} is {value!r}; expected {expected}")
    if config.rule._target_ in RULES_WITH_KERNELS and config.data.batchsize < 2:
        raise UserError(
            f"data.batchsize is {config.data.batchsize}; expected at least 2: "
            "a rule that compares samples needs a window of two"
        )


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


MISSING = object()
