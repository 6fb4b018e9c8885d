"""Checks of Hydra's own settings: a config file can neither run code nor write outside the run's folder.

Overrides on the command line are the user's own: what they say of paths, of the environment, of a scheduler and of a
sweep is not restricted.
"""

import os
import re
from dataclasses import is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf, open_dict

from projectlib.config.bounds import parse_config
from projectlib.config.settings import flatten, is_among, leaves, plain
from projectlib.errors import UserError
from projectlib.values import require

COMMANDS = ("setup", "teardown", "srun_args", "additional_parameters", "ray")  # of a launcher: what a scheduler runs
USUAL = {"additional_parameters.requeue": True}
REFERENCES = re.compile(r"(\$\{hydra\.(sweep\.dir|job\.name)\}|[^$])*")  # of a launcher; others may change later
NAME = re.compile(r"[\w-][\w.-]*")


def check_hydra(hydra: DictConfig, overrides: list[str]) -> None:
    """Raises UserError where a config file makes Hydra do what only the user may.

    hydra: composed, and changed so that Hydra builds nothing below its plugins.  overrides: of the command line.
    """
    raw = plain(hydra)
    if sorted([*raw["overrides"]["hydra"], *raw["overrides"]["task"]]) != sorted(overrides):
        raise UserError("hydra.overrides is filled by a config file; expected it empty: it says what is overridden")
    require(not raw["callbacks"], "hydra.callbacks", raw["callbacks"], "none: a config may not run code of its own")
    check_places(hydra, raw)
    check_environment(hydra, raw)
    check_logging(raw)
    for part, base in (("launcher", Launcher), ("sweeper", Sweeper)):
        check_plugin(hydra, part, base)
    check_scheduler(hydra)
    check_sweep(hydra, raw["sweeper"].get("params"))


def check_search_path(places: Any) -> None:
    """Raises UserError where a config file names places of configs other than folders: modules are imported."""
    for place in places or ():
        if "://" in str(place) and not str(place).startswith("file://"):
            raise UserError(f"hydra.searchpath has {place!r} in a config file; expected a folder: it would import code")


def check_places(hydra: DictConfig, raw: dict[str, Any]) -> None:
    """Raises UserError unless the job's name is a plain name and output_subdir the usual one: both form paths."""
    name, subdir = raw["job"]["name"], raw["output_subdir"]
    is_name = name == "${hydra.job.config_name}" or NAME.fullmatch(str(name)) is not None
    for key, value, is_usual, expected in (
        ("hydra.job.name", name, is_name, "letters and digits"),
        ("hydra.output_subdir", subdir, subdir in (None, ".hydra"), "null, as the run itself writes .hydra"),
    ):
        require(is_usual or is_overridden(hydra, key), key, value, expected)


def check_environment(hydra: DictConfig, raw: dict[str, Any]) -> None:
    """Raises UserError where a config file changes the environment: PATH decides which programs run.

    Values count as they are written: what is resolved may be another value the next time.
    """
    values = raw["job"]["env_set"]
    require(isinstance(values, dict), "hydra.job.env_set", values, "names and values, written out")
    for name, value in values.items():
        key = f"hydra.job.env_set.{name}"
        if value != os.environ.get(name) and not is_overridden(hydra, key):
            raise UserError(f"{key} is {value!r} in a config file; expected it on the command line, if you want it")


def check_logging(raw: dict[str, Any]) -> None:
    """Raises UserError unless logging is set up as Hydra ships it: other setups may name code, and files anywhere."""
    for part in ("job_logging", "hydra_logging"):
        shipped = sorted(Path(str(files("hydra.conf")), "hydra", part).glob("*.yaml"))
        known = {path.stem: parse_config(path.read_text()) for path in shipped}
        if raw[part] not in known.values():
            raise UserError(f"hydra.{part} has settings of its own; expected one of {', '.join(known)} as it is")


def check_plugin(hydra: DictConfig, part: str, base: type) -> None:
    """Raises UserError unless a part is an installed plugin; keeps Hydra from building what is below it."""
    kind: Any = OmegaConf.get_type(hydra, part)  # the plugin's dataclass, which refuses settings that it does not have
    raw: Any = plain(hydra)[part]
    name = raw.get("_target_") if isinstance(raw, dict) else None
    found = Plugins.instance().class_name_to_class.get(name) if isinstance(name, str) else None
    is_installed = found is not None and issubclass(found, base)
    is_described = is_dataclass(kind) and name == getattr(kind, "_target_", None)
    require(is_installed and is_described, f"hydra.{part}", raw, "an installed plugin, with the settings that it has")
    with open_dict(hydra[part]):
        hydra[part]["_recursive_"] = False


def check_scheduler(hydra: DictConfig) -> None:
    """Raises UserError where a config file gives a scheduler commands, line breaks or late references."""
    written, resolved = flatten(plain(hydra.launcher)), flatten(plain(hydra.launcher, resolve=True))
    for key, value in resolved.items():
        runs = is_among(key, COMMANDS) and bool(value) and USUAL.get(key) != value
        adds = any(isinstance(leaf, str) and re.search(r"[\r\n]", leaf) for leaf in leaves(value))
        late = any(isinstance(leaf, str) and not REFERENCES.fullmatch(leaf) for leaf in leaves(written.get(key, "$")))
        if (runs or adds or late) and not is_overridden(hydra, f"hydra.launcher.{key}"):
            raise UserError(f"hydra.launcher.{key} is {value!r} in a config file; expected it on the command line")


def check_sweep(hydra: DictConfig, params: Any) -> None:
    """Raises UserError where a config file sweeps over Hydra's own settings: its jobs take them for overridden."""
    require(params is None or isinstance(params, dict), "hydra.sweeper.params", params, "keys and values")
    for key in params or {}:
        if re.match(r"[+~\s]*hydra", str(key)) and not is_overridden(hydra, "hydra.sweeper.params"):
            raise UserError(f"hydra.sweeper.params has {key}; expected no setting of hydra's in a config file")


def is_overridden(hydra: DictConfig, key: str) -> bool:
    """Whether the user set a key of Hydra's, or one above it, on the command line."""
    named = tuple(line.lstrip("+~").split("=")[0] for line in plain(hydra.overrides)["hydra"])
    return is_among(key, named)
