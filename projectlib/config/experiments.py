"""Experiments: what ``configs/experiment/`` says besides settings, and what ``size=quick`` makes of a command line.

A file is an ordinary Hydra experiment with the settings of the paper.  Under ``figure`` it says as data

    runs     {name: [script, override, ...]}: the runs that the figure consists of
    runs_of  the name of an experiment whose runs of other names are added, and whose quick is taken where there is none
    quick    [override, ...]: what makes it a matter of a minute
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from projectlib.config.compose import CheckedLoader, make_loader, parse
from projectlib.config.settings import plain
from projectlib.errors import UserError
from projectlib.values import ANYTHING, TEXT, problem, require

SIZES = ("paper", "quick")
FORBIDDEN = ("hydra", "plugins")  # a file must not run code by way of a command line
SCHEMA = {"figure?": {"runs?": {...: [TEXT]}, "runs_of?": TEXT, "quick?": [TEXT]}, ...: ANYTHING}


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


def experiment_names() -> list[str]:
    """The experiments of ``configs/experiment/``."""
    return make_loader().get_group_options("experiment")


def read_experiment(name: str, config_dir: str | Path | None = None) -> Experiment:
    """The experiment of that name in ``configs/``, or else in ``config_dir``.

    Raises UserError where there is none, and for overrides in its file that a file may not make.
    """
    loader = make_loader(config_dir)
    content = read_file(name, loader)
    figure = content.get("figure", {})
    other = read_file(figure["runs_of"], loader).get("figure", {}) if "runs_of" in figure else {}
    runs, quick = {**other.get("runs", {}), **figure.get("runs", {})}, {**other, **figure}.get("quick", [])
    for override in parse([*quick, *(word for _, *overrides in runs.values() for word in overrides)]):
        places = [override.key_or_group, override.package or ""]
        if any(place.replace("/", ".").split(".")[0] in FORBIDDEN for place in places):
            raise UserError(
                f"experiment {name} overrides {override.input_line}; expected nothing of {' or '.join(FORBIDDEN)}"
            )
    sweep = OmegaConf.select(OmegaConf.create(content), "hydra.sweeper.params") or {}
    return Experiment(name, runs, quick, [f"{key}={values}" for key, values in sweep.items()])


def read_file(name: str, loader: CheckedLoader) -> dict[str, Any]:
    """What an experiment's file says, plain.  Raises UserError where there is none, or not of ``SCHEMA``."""
    file: Any = loader.repository.load_config(f"experiment/{name}")
    if file is None:
        known = ", ".join(loader.get_group_options("experiment"))
        raise UserError(f"experiment {name!r} does not exist; expected one of {known}")
    content = plain(file.config)
    if wrong := problem(content, SCHEMA, f"experiment {name}"):
        raise UserError(f"{wrong}, as in configs/experiment/")
    return content


def with_size(overrides: list[str], config_dir: str | Path | None = None) -> list[str]:
    """Overrides with what ``size=quick`` says of their experiment written out, before the user's own.

    Without ``size=quick`` they stay as they are.  Raises UserError for another size, and where nothing is quick.
    """
    given = {key: value.strip("'\"") for key, _, value in (word.partition("=") for word in overrides)}
    size, name = given.get("size", "paper"), given.get("experiment", "null")
    require(size in SIZES, "size", size, " or ".join(SIZES))
    if size != "quick":
        return overrides
    if name in ("", "null") or "," in name:
        raise UserError(f"size=quick has experiment={name}; expected one experiment: experiment=mnist")
    if not (quick := read_experiment(name, config_dir).quick):
        raise UserError(f"experiment={name} has no quick size; expected figure.quick in its file: leave out size=quick")
    return [*quick, *overrides]
