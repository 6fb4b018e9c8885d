"""Checks of Hydra's own settings: a config file can neither run code nor write outside the run's folder.

Overrides on the command line are the user's own: what they say of paths, of the environment, of a scheduler and of a
sweep is not restricted.
"""

import os
import re
from collections.abc import Iterator
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
ON_COMMAND_LINE = "it on the command line, not in a config file"
NAME = re.compile(r"[\w-][\w.-]*")


def check_hydra(hydra: DictConfig, overrides: list[str]) -> None:
    """Raises UserError where a config file makes Hydra do what only the user may.

    hydra: composed, and changed so that Hydra builds nothing below its plugins.  overrides: of the command line.
    """
    raw = plain(hydra)
    if sorted([*raw["overrides"]["hydra"], *raw["overrides"]["task"]]) != sorted(overrides):
        raise UserError("hydra.overrides is filled by a config file; expected it empty: it says what is overridden")
    require(not raw["callbacks"], "hydra.callbacks", raw["callbacks"], "none: a config may not run code of its own")
    check_logging(raw)
    for part, base in (("launcher", Launcher), ("sweeper", Sweeper)):
        check_plugin(hydra, part, base)
    named = tuple(line.lstrip("+~").split("=")[0] for line in raw["overrides"]["hydra"])
    for key, value, expected in only_from_the_user(hydra, raw):
        require(is_among(key, named), key, value, expected)


def check_search_path(places: Any) -> None:
    """Raises UserError where a config file names places of configs other than folders: modules are imported."""
    for place in places or ():
        if "://" in str(place) and not str(place).startswith("file://"):
            raise UserError(f"hydra.searchpath has {place!r} in a config file; expected a folder: it would import code")


def only_from_the_user(hydra: DictConfig, raw: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """What is said to Hydra that a config file may not say: key, value, and what is expected in a file.

    The job's name and output_subdir form paths; PATH decides which programs run; a scheduler is given no commands, line
    breaks or late references; a sweep's jobs take its keys for overridden.  Values count as they are written: what is
    resolved may be another value the next time.
    """
    name, subdir = raw["job"]["name"], raw["output_subdir"]
    variables, params = raw["job"]["env_set"], raw["sweeper"].get("params") or {}
    for key, table in (("hydra.job.env_set", variables), ("hydra.sweeper.params", params)):
        require(isinstance(table, dict), key, table, "names and values, written out")
    if name != "${hydra.job.config_name}" and not NAME.fullmatch(str(name)):
        yield "hydra.job.name", name, "letters and digits"
    if subdir not in (None, ".hydra"):
        yield "hydra.output_subdir", subdir, "null, as the run itself writes .hydra"
    for variable, value in variables.items():
        if value != os.environ.get(variable):
            yield f"hydra.job.env_set.{variable}", value, ON_COMMAND_LINE
    written, resolved = flatten(plain(hydra.launcher)), flatten(plain(hydra.launcher, resolve=True))
    for key, value in resolved.items():
        runs = is_among(key, COMMANDS) and bool(value) and USUAL.get(key) != value
        adds = any(isinstance(leaf, str) and re.search(r"[\r\n]", leaf) for leaf in leaves(value))
        late = any(isinstance(leaf, str) and not REFERENCES.fullmatch(leaf) for leaf in leaves(written.get(key, "$")))
        if runs or adds or late:
            yield f"hydra.launcher.{key}", value, ON_COMMAND_LINE
    for key, values in params.items():
        if re.match(r"[+~\s]*hydra", str(key)):
            yield f"hydra.sweeper.params.{key}", values, "no setting of hydra's in a config file"


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
