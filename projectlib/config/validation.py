"""What a config's values must be, checked before anything heavy is imported or written."""

import re

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projectlib.config.plugins import TARGETS, find_in_plugins
from projectlib.config.settings import flatten, is_among, plain, select
from projectlib.errors import UserError
from projectlib.values import COUNT, TEXT, WHOLE, Check, is_count, is_number, require

SINGLE_SAMPLE_RULES = ("direct-feedback-alignment", "feedback-alignment", "local-classifier")
MEMORIES = ("remembered", "covariance", "delta", "class-means")
MISSING = object()

TABLE = Check(lambda v: isinstance(v, dict), "a table of settings, as in configs/")
POSITIVE = Check(lambda v: is_number(v) and v > 0, "a number above 0")
POSITIVE_OR_NULL = Check(lambda v: v is None or POSITIVE.is_valid(v), "a number above 0, or null")
NOT_NEGATIVE = Check(lambda v: is_number(v) and v >= 0, "a number of at least 0")
FLAG = Check(lambda v: isinstance(v, bool), "true or false")

OBJECTIVE = Check(
    lambda v: isinstance(v, str) and re.fullmatch(r"(train|validation)/\w+", v) is not None,
    "train/ or validation/ and a metric: a search never sees the test set",
)

MODULATOR = Check(lambda v: v is None or (isinstance(v, dict) and "_target_" in v), "null, or a modulator")

BUILT = ("data.source", "model", "rule", "optimizer", "lr_schedule", "logger")
REQUIRED = {
    **dict.fromkeys(("training", "checkpointing", "sweep", "data", "hsic", *BUILT), TABLE),
    **{f"{key}._target_": Check(TEXT.is_valid, "the name of a function or a class") for key in BUILT},
    **dict.fromkeys(("checkpointing.rate", "training.nepochs", "training.log_interval"), COUNT),
    "objective": OBJECTIVE,
}
"""What no run can do without."""

CHECKS = {
    "seed data.seed data.source.seed search.worker search.startup": WHOLE,
    "nmodels readout.window optimizer.accumulate training.sample_timesteps model.num_timesteps": COUNT,
    "data.batchsize data.test_batchsize data.nsamples data.ntimesteps data.zdim": COUNT,
    "lr_schedule.T_max lr_schedule.num_epochs lr_schedule.parts search.trials search.heartbeat": COUNT,
    "training.time_step optimizer.lr lr_schedule.gamma": POSITIVE,
    "optimizer.readout_lr checkpointing.minutes": POSITIVE_OR_NULL,
    "optimizer.weight_decay optimizer.eps lr_schedule.eta_min": NOT_NEGATIVE,
    "optimizer.betas": Check(lambda v: isinstance(v, list) and len(v) == 2 and all(map(is_number, v)), "two numbers"),
    "lr_schedule.milestones": Check(lambda v: isinstance(v, list) and all(map(is_count, v)), "a list of epochs"),
    "training.log_arrays": Check(lambda v: isinstance(v, list) and all(map(WHOLE.is_valid, v)), "a list of epochs"),
    "training.log_hsic training.log_memory sweep.skip_finished": FLAG,
    "checkpointing.path search.folder": Check(lambda v: isinstance(v, str) and v != "" and "\0" not in v, "a folder"),
    "plugins": Check(lambda v: isinstance(v, list) and all(map(TEXT.is_valid, v)), "a list of modules: plugins=[mine]"),
    "task": Check(lambda v: v in ("network", "reservoir"), "network or reservoir"),
    "device": Check(TEXT.is_valid, "auto, cpu, cuda, cuda:0 or mps"),
    "engine": Check(lambda v: v in ("auto", "eager", "compiled"), "auto, eager or compiled"),
    "evaluate": Check(lambda v: v is None or isinstance(v, str), "a run folder, or null"),
    "search": Check(lambda v: v is None or isinstance(v, dict), "null, or settings as search=digits brings them"),
    "search.direction": Check(lambda v: v in ("maximize", "minimize"), "maximize or minimize"),
    "search.space": Check(TABLE.is_valid, "a table: a key: {low, high} or {choices}"),
    "modulator._target_": TEXT,
    "modulator rule.modulator": MODULATOR,
}
"""What is checked of settings, named between blanks, where a config has them."""


def validate(config: DictConfig) -> None:
    """Raises UserError naming the first key whose value is missing or not what it must be."""
    try:
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key, reason = str(error.full_key), str(error).splitlines()[0]
        group = key.split(".")[0]
        raise UserError(f"{key} has no value ({reason}); expected {key}=..., or another {group}=") from None
    optional = {key: check for keys, check in CHECKS.items() for key in keys.split()}
    for key, (is_valid, expected) in {**REQUIRED, **optional}.items():
        value = select(config, key, default=None if key in REQUIRED else MISSING)
        if value is not MISSING:
            require(is_valid(value), key, value, expected)


def refuse_additions(config: DictConfig, hydra: DictConfig) -> None:
    """Raises UserError for a key that was added (``+key=value``) where nothing would read it.

    What is built from a ``_target_`` takes further keys, and refuses those that it does not know.
    hydra: Hydra's settings of the job.
    """
    for line in hydra.overrides.task:
        key = line.split("=")[0].lstrip("+").split("@")[0]
        is_searched = is_among(key, ("search.space",)) and hydra.runtime.choices.get("search") is not None
        if not line.startswith("+") or key in hydra.runtime.choices or is_searched:
            continue
        parents = [OmegaConf.select(config, key.rsplit(".", depth)[0]) for depth in range(1, key.count(".") + 1)]
        if not any(OmegaConf.is_dict(parent) and "_target_" in parent for parent in parents):
            raise UserError(f"{line} would have no effect, or needs no +: expected a setting that --help lists")


def refuse_ignored(config: DictConfig, hydra: DictConfig) -> None:
    """Raises UserError for an override of hsic.*, data.batchsize or training.log_hsic that nothing reads.

    hydra: Hydra's settings of the job.  A memory of the user's own has to be imported before.
    """
    modulator, rule = (hydra.runtime.choices.get(group) for group in ("modulator", "rule"))
    target = select(config, "modulator._target_")
    # of one of the project's no plugin is looked for: that takes time, and garbage to be collected while a run trains
    is_own = target is not None and target not in TARGETS and not getattr(find_in_plugins(target), "needs_window", True)
    one_by_one = instead = ""  # what sees one sample at a time
    if modulator in MEMORIES or is_own:
        one_by_one, instead = f"modulator={modulator}", "modulator=window"
    elif rule in SINGLE_SAMPLE_RULES:
        one_by_one, instead = f"rule={rule}", "rule=biohsic"
    texts = map(str, flatten(plain(config)).values())  # a rule, or its modulator, names what it takes
    read = tuple(text[2:-1] for text in texts if text.startswith("${hsic."))
    measured = any(config.training.get(name) for name in ("log_hsic", "log_memory", "log_arrays"))
    of_memory = select(config, "modulator.signal") in ("published", "exact")
    for line in hydra.overrides.task:
        key, _, value = line.lstrip("+").partition("=")
        is_kernel = is_among(key, ("hsic.gamma", "hsic.sigmas"))
        is_window = is_among(key, ("data.batchsize", "hsic")) and not (is_kernel and of_memory)
        if one_by_one and (is_window or (key == "training.log_hsic" and value.lower() != "false")):
            reason = f"{one_by_one}, which sees one sample at a time; leave it out, or use {instead}"
        elif key == "data.batchsize" and config.optimizer.get("accumulate", 1) > 1:
            reason = f"optimizer.accumulate={config.optimizer.accumulate}; leave one out"
        elif key.startswith("hsic.") and not is_among(key, read) and not (is_kernel and measured):
            reason = f"rule={rule}; leave it out, or use rule=biohsic"
        else:
            continue
        raise UserError(f"{line} has no effect with {reason}")
