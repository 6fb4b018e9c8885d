"""Experiments: what ``configs/experiment/`` says besides settings, and what ``size=quick`` makes of a command line.

A file is an ordinary Hydra experiment with the settings of the paper.  Under ``figure`` it says as data

    runs     {name: [script, override, ...]}: the runs that the figure consists of
    quick    [override, ...]: what makes it a matter of a minute
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from projectlib.config.bounds import check_yaml
from projectlib.config.compose import parse
from projectlib.config.settings import plain
from projectlib.errors import UserError

SIZES = ("paper", "quick")
FORBIDDEN = ("hydra", "plugins")  # a file must not run code by way of a command line


@dataclass(frozen=True)
class Experiment:
    """One file of an ``experiment`` folder.

    runs: script and overrides of each run of its figure, by name.  quick: the overrides of ``size=quick``.
    sweep: the overrides that a sweep goes through; empty for single runs.
    """

    name: str
    runs: dict[str, list[str]]
    quick: list[str]
    sweep: list[str]


def read_experiment(name: str, config_dirs: Iterable[str | Path]) -> Experiment:
    """The experiment of that name in the first of the folders that has it.

    Raises UserError where there is none, and for overrides in its file that a file may not make.
    """
    config_dirs = [*config_dirs]
    path = next((path for folder in config_dirs if (path := experiment_path(folder, name)).is_file()), None)
    if path is None:
        known = ", ".join(experiment_names(config_dirs))
        raise UserError(f"experiment {name!r} does not exist; expected one of {known}")
    try:
        check_yaml(path.read_text(encoding="utf-8"))
        file = OmegaConf.load(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(file, DictConfig):
        raise UserError(f"{path} is no table of settings; expected an experiment, as in configs/experiment/")
    figure = plain(file).get("figure", {})
    runs, quick = figure.get("runs", {}), figure.get("quick", [])
    check_allowed([*quick, *(override for _, *overrides in runs.values() for override in overrides)], path)
    sweep = OmegaConf.select(file, "hydra.sweeper.params") or {}
    return Experiment(name, runs, quick, [f"{key}={values}" for key, values in sweep.items()])


def experiment_path(config_dir: str | Path, name: str) -> Path:
    return Path(config_dir, "experiment", f"{name}.yaml")


def experiment_names(config_dirs: Iterable[str | Path]) -> list[str]:
    folders = [Path(folder, "experiment") for folder in config_dirs]
    paths = [(path, folder) for folder in folders for path in folder.glob("**/*.yaml")]
    return sorted({path.relative_to(folder).with_suffix("").as_posix() for path, folder in paths})


def check_allowed(overrides: Sequence[str], path: Path) -> None:
    """Raises UserError for overrides from a file that would change Hydra itself or name code."""
    for override in parse([*overrides]):
        places = [override.key_or_group, override.package or ""]
        if any(place.replace("/", ".").split(".")[0] in FORBIDDEN for place in places):
            raise UserError(f"{path} overrides {override.input_line}; expected nothing of {' or '.join(FORBIDDEN)}")


def with_size(arguments: Sequence[str], config_dirs: Iterable[str | Path]) -> list[str]:
    """A command line with what ``size=quick`` says of its experiment written out, before the person's own overrides.

    Without ``size=quick`` it stays as it is.  Raises UserError for another size, and where there is nothing to expand.
    """
    arguments = [*arguments]
    size = last_value(arguments, "size")
    if size not in (None, *SIZES):
        raise UserError(f"size is {size!r}; expected {' or '.join(SIZES)}")
    if size != "quick":
        return arguments
    name = last_value(arguments, "experiment")
    if name is None or "," in name:
        raise UserError(f"size=quick has experiment={name or 'null'}; expected one experiment: experiment=mnist")
    quick = read_experiment(name, config_dirs).quick
    if not quick:
        raise UserError(f"experiment={name} has no quick size; expected figure.quick in its file: leave out size=quick")
    first = next(index for index, argument in enumerate(arguments) if is_override(argument))
    return [*arguments[:first], *quick, *arguments[first:]]


def is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")


def last_value(arguments: Sequence[str], key: str) -> str | None:
    """What the last ``key=value`` of a command line says; None where there is none, and for null."""
    values = [argument.partition("=")[2].strip("'\"") for argument in arguments if argument.startswith(f"{key}=")]
    return values[-1] if values and values[-1] not in ("", "null") else None
