"""Composition: ``configs/`` and the folders that a person adds, into one config whose Hydra part runs no code."""

import os
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from projectlib.config.bounds import override_problem, parse_config
from projectlib.config.settings import leaves, plain
from projectlib.errors import UserError, one_line
from projectlib.values import require

PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = next(path for path in (PACKAGE.parent / "configs", PACKAGE / "configs") if (path / "common.yaml").is_file())
"""``configs/`` of the checkout, or what an installation brings of it."""

LOGGING = ("default", "disabled", "none", "stdout")
"""Hydra's own ways of logging.  Another may name code, and files anywhere."""

OF_RESERVOIRS = {"model": "reservoir", "rule": "delta"}  # and of nothing else


class FileConfigSource(file_config_source.FileConfigSource):  # Hydra's name for it: by that it knows that it has one
    """Hydra's reader of config files, faster, and it refuses one that stands for more than fits the memory."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            text = path.read_text(encoding="utf-8")
            content = parse_config(text)
            if not isinstance(content, dict | list | str | None):
                raise ValueError(f"it says {content!r:.50}; expected keys and values")
            config, header = OmegaConf.create({} if content is None else content), self._get_header_dict(text)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read: {one_line(error)}") from None
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", config, header)


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader, which holds what Hydra builds for itself to what is known to be harmless.

    All that Hydra composes goes through it before anything is built, in the workers of a launcher too.

    composed: the first two since it was emptied: by a command to look which mode it has, and then for its sweep.
    """

    composed: ClassVar[list[DictConfig]] = []

    def __init__(self, config_search_path: ConfigSearchPath):
        Plugins.instance()  # registers Hydra's own reader, in whose place ours comes
        SourcesRegistry.instance().types["file"] = FileConfigSource
        super().__init__(config_search_path)

    def get_group_options(self, group_name: str, results_filter: Any = ObjectType.CONFIG, **command: Any) -> list[str]:
        """The choices of a group.  Hydra copies all its sources each time, for commands that may name others."""
        if any(command.values()):
            return super().get_group_options(group_name, results_filter, **command)
        return self.repository.get_group_options(group_name, results_filter)

    def load_configuration(self, *args: Any, **keywords: Any) -> DictConfig:
        try:
            config = super().load_configuration(*args, **keywords)
        except ValueError as error:
            _, no_place, name = str(error).partition("invalid literal for int() with base 10: ")
            if not no_place:
                raise
            raise UserError(f"an override leads to {name} in a list; expected a place in it, 0 for the first") from None
        self.check(config.hydra)
        check_environment(config.hydra)
        check_scheduler(config.hydra)
        if len(CheckedLoader.composed) < 2:
            CheckedLoader.composed.append(config)
        return config

    def check(self, hydra: DictConfig) -> None:
        """Raises UserError where Hydra would build, or log by, anything but what it and its plugins bring."""
        raw = plain(hydra)
        require(not raw["callbacks"], "hydra.callbacks", raw["callbacks"], "none: a config may not run code of its own")
        for part in ("launcher", "sweeper"):
            name = OmegaConf.select(hydra, f"{part}._target_")
            require(name in Plugins.instance().class_name_to_class, f"hydra.{part}", raw[part], "an installed plugin")
            with open_dict(hydra[part]):
                hydra[part]["_recursive_"] = False  # Hydra builds nothing that is below it
        for part in ("job_logging", "hydra_logging"):
            files: Any = [self.repository.load_config(f"hydra/{part}/{name}") for name in LOGGING]
            known = [plain(file.config) for file in files if file is not None and file.provider == "hydra"]
            if raw[part] not in known:
                raise UserError(f"hydra.{part} has settings of its own; expected one of {', '.join(LOGGING)} as it is")


class HelpLoader(CheckedLoader):
    """Lists what can be chosen with a script: of the groups that it has, what refers to no setting that it lacks."""

    config: Any = None

    def load_configuration(self, *args: Any, **keywords: Any) -> DictConfig:
        self.config, self.offered = super().load_configuration(*args, **keywords), {}
        return self.config

    def list_groups(self, parent_name: str) -> list[str]:
        groups = self.config.hydra.runtime.choices  # data_model and its like are chosen with data and model
        return [] if parent_name else [g for g in groups if "/" not in g and g.split("_")[0] not in {*groups} - {g}]

    def get_group_options(self, group_name: str, *args: Any, **command: Any) -> list[str]:
        options = super().get_group_options(group_name, *args, **command)
        if self.config is None:
            return options
        if group_name not in self.offered:  # Hydra asks twice, and each answer reads many files
            self.offered[group_name] = [name for name in options if self.suits(group_name, name)]
        return self.offered[group_name]

    def suits(self, group: str, name: str) -> bool:
        content: Any = self.repository.load_config(f"{group}/{name}")
        if content is None:  # a folder of more
            return False
        if group in OF_RESERVOIRS and (name == OF_RESERVOIRS[group]) != (self.config.task == "reservoir"):
            return False
        script = self.config.hydra.job.config_name
        runs, named = (OmegaConf.select(content.config, key) for key in ("figure.runs", f"{group}.script"))
        scripts = [first for first, *_ in (runs or {}).values()] or [named or script]
        references = re.findall(r"\$\{([\w.]+)\}", OmegaConf.to_yaml(content.config))
        return script in scripts and not any(
            OmegaConf.select(self.config, key, throw_on_missing=False) is None
            for key in references
            if not key.startswith(f"{group}.")
        )


def make_loader(config_dir: str | Path | None = None) -> CheckedLoader:
    """What finds and composes configs.  config_dir: a folder beside ours; raises UserError where it is none."""
    version.setbase("1.3")
    setup_globals()
    path = create_config_search_path(str(CONFIGS))
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise UserError(f"config_dir is {str(config_dir)!r}; expected a folder with configs")
        place = f"file://{Path(config_dir).resolve()}"
        path.prepend(provider="command-line", path=place, anchor=SearchPathQuery(provider="schema"))
    return CheckedLoader(path)


def compose(config_name: str, overrides: list[str], config_dir: str | Path | None = None) -> DictConfig:
    """A config with its Hydra part, which a run would have with these overrides; changes nothing outside."""
    return make_loader(config_dir).load_configuration(config_name, overrides, RunMode.RUN)


def without_hydra(config: DictConfig) -> DictConfig:
    """A composed config's own settings."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def parse(overrides: list[str]) -> list[Override]:
    """Overrides as Hydra understands them.  Raises its OverrideParseException, or UserError for one without a key."""
    for override in overrides:
        if problem := override_problem(override):
            raise UserError(f"{override:.50} {problem}")
    parsed = OverridesParser.create().parse_overrides(overrides)
    for override in parsed:
        if not override.key_or_group:
            raise UserError(f"{override.input_line!r} has no key; expected key=value")
    return parsed


def check_choices(overrides: list[Override], config_dir: str | Path | None = None) -> None:
    """Raises UserError where what is chosen of a group is no name: Hydra itself would fail."""
    loader = make_loader(config_dir)
    for override in overrides:
        if override.is_sweep_override() or "." in override.key_or_group:
            continue
        value, options = override.value(), loader.get_group_options(override.key_or_group)
        if override.is_delete() and value is None:
            continue
        names = value if isinstance(value, list) and not override.is_delete() else [value]
        if options and not isinstance(value, dict) and not all(isinstance(name, str) for name in names):
            raise UserError(f"{override.key_or_group} is {value!r}; expected one of {', '.join(options)}")


def is_hydra(override: Override) -> bool:
    """Whether an override is of Hydra's own settings: ``hydra/launcher=...``, ``hydra.run.dir=...``."""
    return override.key_or_group.split("/")[0].split(".")[0] == "hydra"


def quote(path: Path) -> str:
    """A path as a value on Hydra's command line, whatever characters it has."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


# What Hydra builds for itself


def check_environment(hydra: DictConfig) -> None:
    """Raises UserError for a variable of the environment that a file sets: PATH says which programs are run."""
    for name, value in plain(hydra.job.env_set).items():
        key = f"hydra.job.env_set.{name}"
        if value != os.environ.get(name) and not is_overridden(hydra, key):
            raise UserError(f"{key} is {value!r} in a config file; expected it on the command line, if you want it")


def check_scheduler(hydra: DictConfig) -> None:
    """Raises UserError where a file has a scheduler run commands, or add lines to the script that it runs."""
    for key, value in plain(hydra.launcher).items():
        runs = key in ("setup", "srun_args", "additional_parameters") and value and value != {"requeue": True}
        adds = any(isinstance(leaf, str) and "\n" in leaf for leaf in leaves(value))
        if (runs or adds) and not is_overridden(hydra, f"hydra.launcher.{key}"):
            raise UserError(f"hydra.launcher.{key} is {value!r} in a config file; expected it on the command line")


def is_overridden(hydra: DictConfig, key: str) -> bool:
    """Whether the person set a key of Hydra's, or one above it, on the command line."""
    named = [line.lstrip("+").split("=")[0] for line in hydra.overrides.hydra]
    return any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in named)
