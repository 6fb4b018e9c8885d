"""Composition: ``configs/`` and the folders that a user adds, into one config whose Hydra part runs no code."""

import re
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from projectlib.config.bounds import override_problem, parse_config, read_text
from projectlib.config.hydra_part import check_hydra, check_search_path
from projectlib.errors import UserError, one_line

PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = next(path for path in (PACKAGE.parent / "configs", PACKAGE / "configs") if (path / "common.yaml").is_file())
"""``configs/`` of the checkout, or what an installation brings of it."""

# A reservoir has these choices and no others, and nothing else has them
RESERVOIR_ONLY = {"model": "reservoir", "rule": "delta"}


# Hydra's registry takes a second file:// reader only by the same name
class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's reader of config files, faster, and it refuses one that stands for more than fits the memory."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            text = read_text(path)
            content = parse_config(text)
            if not isinstance(content, dict | list | None):
                raise ValueError(f"it says {content!r:.50}; expected keys and values")
            config, header = OmegaConf.create({} if content is None else content), self._get_header_dict(text)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read: {one_line(error)}") from None
        if OmegaConf.is_dict(config):
            check_search_path(OmegaConf.select(config, "hydra.searchpath"))
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", config, header)


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader, which holds what Hydra builds for itself to what is known to be harmless.

    All that Hydra composes goes through it before anything is built, in the workers of a launcher too.
    """

    def __init__(self, config_search_path: ConfigSearchPath):
        Plugins.instance()  # registers Hydra's own reader, in whose place ours comes
        SourcesRegistry.instance().types["file"] = FileConfigSource
        super().__init__(config_search_path)

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **keywords: Any
    ) -> DictConfig:
        try:
            config = super().load_configuration(config_name, overrides, *args, **keywords)
        except ValueError as error:  # Hydra explains all but a name where a list has numbers
            raise UserError(f"settings are refused: {one_line(error)}; a place in a list is a number, from 0") from None
        check_hydra(config.hydra, overrides)
        return config


class HelpLoader(CheckedLoader):
    """Lists for --help what suits a script: its groups, and the choices whose references its config can resolve."""

    def load_configuration(self, *args: Any, **keywords: Any) -> DictConfig:
        self.config: Any = super().load_configuration(*args, **keywords)
        self.offered: dict[str, list[str]] = {}
        return self.config

    def list_groups(self, parent_name: str) -> list[str]:
        groups = self.config.hydra.runtime.choices  # data_model and its like are chosen with data and model
        return [] if parent_name else [g for g in groups if "/" not in g and g.split("_")[0] not in {*groups} - {g}]

    def get_group_options(self, group_name: str, *args: Any, **command: Any) -> list[str]:
        if group_name not in self.offered:  # Hydra asks twice, and each answer reads many files
            self.offered[group_name] = [n for n in super().get_group_options(group_name) if self.suits(group_name, n)]
        return self.offered[group_name]

    def suits(self, group: str, name: str) -> bool:
        content: Any = self.repository.load_config(f"{group}/{name}")
        if group in RESERVOIR_ONLY and (name == RESERVOIR_ONLY[group]) != (self.config.task == "reservoir"):
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
    """Finds and composes configs.  config_dir: a folder that is searched after ours; raises UserError if it is none."""
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


def quote(path: Path) -> str:
    """A path as a value on Hydra's command line, whatever characters it has."""
    return QuotedString(str(path), Quote.single).with_quotes()
