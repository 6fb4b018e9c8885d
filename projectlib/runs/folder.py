"""A run folder: the one owner of every name in it, and of what is written to and read from it by name.

    .hydra/         config.yaml, hydra.yaml, overrides.yaml: what the run was started with
    <script>.log    what was logged
    metrics.csv     one row per epoch, split and model (``projectlib.runs.history``)
    summary.json    how it ended, and what its models have reached
    arrays.npz      what ``training.log_arrays`` asked for; a reservoir has traces.npz
    checkpoints/    (``projectlib.runs.checkpoint``), unless ``checkpointing.path`` is another
    figures/        its learning curve
    .lock, .owner   held while it is written (``projectlib.runs.files``)

Importing this, and reading settings and summaries, needs neither torch nor pandas.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projectlib.config.bounds import Loader, check_yaml, read_text
from projectlib.errors import UserError, one_line
from projectlib.runs.files import write_text
from projectlib.values import ANYTHING, TEXT, Check, problem

HYDRA_FOLDER, METRICS, SUMMARY, FIGURES = ".hydra", "metrics.csv", "summary.json", "figures"
STACKS = ("arrays", "traces")
TABLE = {...: ANYTHING}
LARGEST = 1e150  # has a square that is a number too; a run with larger metrics ends as one that diverged
NUMBER = Check(lambda v: type(v) in (int, float) and abs(v) < LARGEST, "a number")
MEASURED = Check(lambda v: v is None or NUMBER.is_valid(v), "a number or null")
STATISTICS = {...: {...: {"mean": NUMBER, "sd": MEASURED, ...: MEASURED}}}
SUMMARY_SCHEMA = {
    **{f"{name}?": TEXT for name in ("status", "error", "device", "finished_in")},
    **{f"{name}?": MEASURED for name in ("steps_per_second", "compile_seconds", "wall_seconds", "numbers_kept")},
    **{f"{name}?": STATISTICS for name in ("metrics", "best")},
    **TABLE,
}
BEFORE_RUN = ("*.log", ".lock", f"{HYDRA_FOLDER}/*.yaml")
IN_PLACE = (*BEFORE_RUN, HYDRA_FOLDER, f"{HYDRA_FOLDER}/*", FIGURES, f"{FIGURES}/*", "tensorboard", "wandb")
UNREADABLE = (OSError, ValueError, RecursionError, TypeError, yaml.YAMLError)
"""What text, JSON and YAML raise: for ints of thousands of digits, depths, lists as keys."""


def read_file(path: Path, parse: Callable[[str], Any], schema: Any) -> Any:
    """What a file says, where it fits a schema.

    Raises FileNotFoundError, and UserError for one that is broken or not what a run writes.
    """
    try:
        content = parse(read_text(path))
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None
    if difference := problem(content, schema):
        raise UserError(f"{path} is not what a run writes: {difference}")
    return content


def parse_yaml(text: str) -> Any:
    check_yaml(text, aliases=False)
    return {} if (content := yaml.load(text, Loader)) is None else content


def read_settings(folder: Path, name: str, schema: Any = TABLE) -> dict[str, Any]:
    """One file of ``.hydra/`` as plain values; a config.yaml is without effect until somebody builds from it.

    Raises UserError where it is missing, broken or does not fit the schema.
    """
    try:
        return read_file(Path(folder) / HYDRA_FOLDER / name, parse_yaml, schema)
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no run folder: it has no {HYDRA_FOLDER}/{name}; expected a folder that an entry script wrote"
        ) from None


def read_config(folder: Path) -> DictConfig:
    """The config of a run as OmegaConf's own type."""
    try:
        return OmegaConf.create(read_settings(folder, "config.yaml"))
    except (OmegaConfBaseException, ValueError, RecursionError) as error:
        raise UserError(f"{Path(folder) / HYDRA_FOLDER}/config.yaml cannot be read: {one_line(error)}") from None


def write_settings(folder: Path, **nodes: DictConfig | ListConfig) -> None:
    """Write ``.hydra/<name>.yaml`` for each node."""
    (Path(folder) / HYDRA_FOLDER).mkdir(parents=True, exist_ok=True)
    for name, node in nodes.items():
        write_text(Path(folder) / HYDRA_FOLDER / f"{name}.yaml", OmegaConf.to_yaml(node))


def read_summary(folder: Path) -> dict[str, Any]:
    """What summary.json says; empty where there is none.  Raises UserError where it is not what a run writes."""
    try:
        return read_file(Path(folder) / SUMMARY, json.loads, SUMMARY_SCHEMA)
    except FileNotFoundError:
        return {}


def write_summary(folder: Path, summary: dict[str, Any], trained: bool = False) -> None:
    """Write summary.json.  A finished run's is kept unless ``trained``: the run went on training."""
    if trained or not is_finished(folder):
        write_text(Path(folder) / SUMMARY, json.dumps(summary, indent=2) + "\n")


def is_finished(folder: Path) -> bool:
    """Whether a run folder's summary says so; without a readable summary it is not."""
    try:
        return read_summary(folder).get("status") == "finished"
    except UserError:
        return False


def checkpoint_folder(run_folder: Path, path: str) -> Path:
    """The folder of a run's checkpoints.  path: ``checkpointing.path``, inside the run folder unless it is absolute.

    Jobs of a sweep share an absolute path, so each has a folder of its own there, named after its run folder.
    Raises UserError for a relative path that leads out of the run folder, to the checkpoints of another perhaps.
    """
    place, path = Path(run_folder).resolve(), os.path.expanduser(path)
    if Path(path).is_absolute():
        return Path(path) / f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:12]}"
    if (inside := (place / path).resolve()) == place or not inside.is_relative_to(place):
        raise UserError(
            f"checkpointing.path is {path!r}, which leads out of {run_folder}; expected a folder inside it, "
            "or an absolute path"
        )
    return Path(run_folder) / path


def refuse_links(run_folder: Path) -> None:
    """Raises UserError where what a run writes in place is a link, to a file of somebody else, or a pipe."""
    for path in (path for name in IN_PLACE for path in Path(run_folder).glob(name)):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is a link or a pipe; expected a file or a folder, as a run writes it: remove it")


def missing_folders(folder: str) -> tuple[Path, ...]:
    """The folders that have to be made for a run folder to be there, the innermost first."""
    place = Path(os.path.abspath(folder))
    return tuple(path for path in (place, *place.parents) if not os.path.lexists(path))


def remove_unbegun(made: Sequence[Path]) -> bool:
    """Remove the folders made for a run, the innermost first, if they hold only files that exist before it begins.

    Returns False, with all of it in place, where no folder was made, or where there is more.
    """
    if not made:
        return False
    files = {path for path in made[0].rglob("*") if path.is_symlink() or not path.is_dir()}
    if files - {path for name in BEFORE_RUN for path in made[0].glob(name) if not path.is_symlink()}:
        return False
    for path in files:
        path.unlink()
    for place, *_ in os.walk(made[0], topdown=False):  # none of them holds a file, or rmdir refuses
        os.rmdir(place)
    for parent in made[1:]:
        parent.rmdir()
    return True
