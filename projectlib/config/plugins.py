"""The names that a config may build: nothing else is imported or called because a file says so."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projectlib.errors import UserError

TARGETS = {
    *(f"projectlib.data.{name}" for name in ("cifar10", "digits", "fashion_mnist", "folder", "linear", "mnist", "xor")),
    *(f"projectlib.models.{name}" for name in ("Reservoir", "cnn", "lif_mlp", "linear", "mlp")),
    *(f"projectlib.rules.{name}" for name in ("HSIC", "Backprop", "BioHSIC", "Delta", "Frozen")),
    *(f"projectlib.modulators.{name}" for name in ("ReservoirModulator", "WindowModulator")),
    *(f"projectlib.runs.loggers.{name}" for name in ("PrintLogger", "TensorBoardLogger", "WandbLogger")),
    *(f"torch.optim.{name}" for name in ("SGD", "Adam", "AdamW")),
    *(
        f"torch.optim.lr_scheduler.{name}"
        for name in ("ConstantLR", "CosineAnnealingLR", "ExponentialLR", "MultiStepLR")
    ),
}


HYDRA_TARGETS = {
    *("hydra._internal.BasicLauncher", "hydra._internal.core_plugins.basic_launcher.BasicLauncher"),
    *("hydra._internal.BasicSweeper", "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"),
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    *(f"hydra_plugins.hydra_submitit_launcher.submitit_launcher.{name}Launcher" for name in ("Local", "Slurm")),
    *(f"logging.{name}" for name in ("FileHandler", "Formatter", "StreamHandler")),
    "colorlog.ColoredFormatter",
}
"""What Hydra itself may build from its own part of a config: launchers, sweepers and logging, and no callback."""

NAMING = ("_target_", "()", "class")
"""Keys whose value names code: of a config, and of a logging config."""

RESOLVED_LATE = re.compile(r"\$\{\s*[\w.]+\s*:.*\}")
"""All of a value is what a resolver returns, which may be anything, and another thing the next time."""

HYDRA_PARTS = ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging")


def register(target: Callable) -> Callable:
    """Decorate a class or function of your own so that a config's ``_target_`` may name it."""
    TARGETS.add(f"{target.__module__}.{target.__qualname__}")
    return target


def build(node: DictConfig, **arguments: Any) -> Any:
    """What ``node._target_`` names, called with the node's other keys and with ``arguments``.

    Raises UserError for a name, nested ones included, that is not registered, and for arguments it refuses.
    """
    plain = OmegaConf.to_container(node, resolve=True)  # what is checked is what is built: nothing resolves again
    check_targets(plain, TARGETS, "decorate a class of your own with projectlib.config.plugins.register")
    return construct(plain, arguments)


def construct(value: Any, arguments: dict[str, Any] | None = None) -> Any:
    """Call the targets of plain values, inner ones first; ``arguments`` go to the outermost."""
    if isinstance(value, list):
        return [construct(item) for item in value]
    if not isinstance(value, dict):
        return value
    children = {key: construct(child) for key, child in value.items() if key != "_target_"}
    if "_target_" not in value:
        return children
    name = value["_target_"]
    try:
        return get_object(name)(**children, **(arguments or {}))
    except (TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} cannot be built: {reason}; look at the keys of its config") from error


def check_targets(plain: Any, allowed: set[str], advice: str) -> None:
    """Raises UserError for a target, at any depth of plain values, that is not in ``allowed``."""
    for name in named_targets(plain):
        if name not in allowed:
            raise UserError(f"_target_ is {name!r}; expected a registered name: {advice}")


def named_targets(plain: Any) -> Iterator[str]:
    """Every ``_target_``, and what a logging config names instead, at any depth of plain values."""
    if isinstance(plain, dict):
        yield from (str(plain[key]) for key in NAMING if key in plain)
    children = plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else ()
    for child in children:
        yield from named_targets(child)


def guard_hydra() -> None:
    """Hold what Hydra builds for itself (callbacks, launcher, sweeper, logging) to a list of names too.

    Every config that Hydra composes goes through one method of its loader, before anything of it is built.
    """
    load = ConfigLoaderImpl.load_configuration

    def load_and_check(self, *args, **keywords) -> DictConfig:
        config = load(self, *args, **keywords)
        parts = {key: known_values(config.hydra[key]) for key in HYDRA_PARTS}
        check_targets(parts, HYDRA_TARGETS, "a config may not run code of its own")
        return config

    ConfigLoaderImpl.load_configuration = load_and_check


def known_values(node: Any) -> Any:
    """Plain values of a config node as far as they are known: Hydra fills in the name of a job later.

    Raises UserError where a value that names code, or that may hold one that does, could become another later.
    """
    if not OmegaConf.is_config(node):
        return node
    values = {}
    for key in node if OmegaConf.is_dict(node) else range(len(node)):
        if OmegaConf.is_interpolation(node, key):
            text = node._get_node(key)._value()
            if key in NAMING or RESOLVED_LATE.fullmatch(text):
                raise UserError(f"{node._get_full_key(key)} is {text}; expected it to be written out, as it names code")
        with suppress(OmegaConfBaseException):
            values[key] = known_values(node[key])
    return values
