"""A run folder: the one owner of every name in it, of what is read from it, and of the search for such folders.

    .hydra/         config.yaml, hydra.yaml, overrides.yaml: what the run was started with
    <script>.log    what was logged
    metrics.csv     one row per epoch, split and model (``projectlib.runs.history``)
    summary.json    how it ended, and what its models have reached
    arrays.npz      what ``training.log_arrays`` asked for; a reservoir has traces.npz
    checkpoints/    (``projectlib.runs.checkpoint``), unless ``checkpointing.path`` is another
    figures/        its learning curve
    .lock, .owner   held while it is written (``projectlib.runs.files``)

Who only looks at settings and summaries waits for neither torch nor pandas.
"""

import glob
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from projectlib.config.bounds import LOADER, check_yaml
from projectlib.config.settings import plain_settings
from projectlib.errors import UserError, one_line
from projectlib.runs.files import is_locked, write_text
from projectlib.values import ANYTHING, COUNT, TEXT, WHOLE, Check, problem

if TYPE_CHECKING:
    import numpy as np

    from projectlib.runs.history import History

SETTINGS, METRICS, SUMMARY, FIGURES, STACKS = ".hydra", "metrics.csv", "summary.json", "figures", ("arrays", "traces")
TABLE = {...: ANYTHING}
HYDRA = {
    "hydra": {
        "job": {"config_name": TEXT, **TABLE},
        "runtime": {"choices": TABLE, **TABLE},
        "mode": ANYTHING,
        "overrides": {"task": [ANYTHING], **TABLE},
        **TABLE,
    },
    **TABLE,
}
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
NO_SUMMARY = "it ended without a word (killed, or the machine went down): issue the sweep again in its folder"
BEFORE_RUN = ("*.log", ".lock", f"{SETTINGS}/*.yaml")
IN_PLACE = (*BEFORE_RUN, SETTINGS, f"{SETTINGS}/*", FIGURES, f"{FIGURES}/*", "tensorboard", "wandb")
LARGEST_TEXT = 2**22  # bytes of what is read as text
UNREADABLE = (OSError, ValueError, RecursionError, TypeError, yaml.YAMLError)
"""What text, JSON and YAML raise: for ints of thousands of digits, depths, lists as keys."""

Folders = str | Path | Sequence[str | Path]


class Loader(LOADER):
    """Reads YAML as OmegaConf does, thirty times as fast where there is the compiled parser."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers  # 1e-4 is a number, 2026-11-24 is text


def read_file(path: Path, parse: Callable[[str], Any], schema: Any) -> Any:
    """What a file says, where it fits a schema; other than a plain ``open`` it waits for no pipe.

    Raises FileNotFoundError, and UserError for one that is broken or not what a run writes.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        if path.exists() and (size := path.stat().st_size) > LARGEST_TEXT:
            raise OSError(f"it has {size:,} bytes, and no run writes more than {LARGEST_TEXT:,}")
        content = parse(path.read_text(encoding="utf-8"))
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
        return read_file(Path(folder) / SETTINGS / name, parse_yaml, schema)
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no run folder: it has no {SETTINGS}/{name}; expected a folder that an entry script wrote"
        ) from None


def read_config(folder: Path) -> DictConfig:
    """The config of a run as OmegaConf's own type."""
    try:
        return OmegaConf.create(read_settings(folder, "config.yaml"))
    except (OmegaConfBaseException, ValueError, RecursionError) as error:
        raise UserError(f"{Path(folder) / SETTINGS}/config.yaml cannot be read: {one_line(error)}") from None


def write_settings(folder: Path, **nodes: DictConfig | ListConfig) -> None:
    """Write ``.hydra/<name>.yaml`` for each node."""
    (Path(folder) / SETTINGS).mkdir(parents=True, exist_ok=True)
    for name, node in nodes.items():
        write_text(Path(folder) / SETTINGS / f"{name}.yaml", OmegaConf.to_yaml(node))


def read_summary(folder: Path) -> dict[str, Any]:
    """What summary.json says; empty where there is none.  Raises UserError where it is not what a run writes."""
    try:
        return read_file(Path(folder) / SUMMARY, json.loads, SUMMARY_SCHEMA)
    except FileNotFoundError:
        return {}


def write_summary(folder: Path, summary: dict[str, Any], trained: bool = False) -> None:
    """Say how a run ended.  trained: beyond what was there; else a finished run's summary is kept."""
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
    place = Path(run_folder).resolve()
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
    """Remove the folders that were made for a run, the innermost first, if the run left what it has before it begins.

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


@dataclass(frozen=True)
class Run:
    """One run folder.  All that is read from it raises UserError where it is missing, empty or damaged."""

    folder: Path

    @cached_property
    def config(self) -> DictConfig:
        return read_config(self.folder)

    @cached_property
    def hydra(self) -> dict[str, Any]:
        """Hydra's own settings."""
        return read_settings(self.folder, "hydra.yaml", HYDRA)["hydra"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings by dotted key; references to others resolved, and nothing of the environment looked up."""
        settings = plain_settings(read_settings(self.folder, "config.yaml"), self.folder)
        if wrong := problem(settings, {"seed?": WHOLE, "nmodels?": COUNT, **TABLE}):
            raise UserError(f"{self.folder / SETTINGS}/config.yaml: {wrong}")
        return settings

    def get(self, key: str, default: Any = None) -> Any:
        """One setting, e.g. ``get("data.batchsize")``; the default where there is none."""
        value = self.settings.get(key)
        return default if value is None else value

    @property
    def script(self) -> str:
        return self.hydra["job"]["config_name"]

    @property
    def choices(self) -> dict[str, Any]:
        """What was chosen of every group of configs."""
        return self.hydra["runtime"]["choices"]

    def choice(self, group: str) -> str | None:
        """What was chosen of a group of configs, e.g. ``choice("rule")``."""
        return self.choices.get(group)

    @property
    def experiment(self) -> str | None:
        """The experiment it was started as."""
        return self.choice("experiment")

    @property
    def is_sweep_job(self) -> bool:
        return self.hydra["mode"] == "MULTIRUN"

    @property
    def overrides(self) -> list[str]:
        """What was overridden on the command line."""
        return [str(word) for word in self.hydra["overrides"]["task"]]

    @property
    def is_reservoir(self) -> bool:
        return self.get("task") == "reservoir"

    @property
    def seed(self) -> int:
        """Of its first model; the others count on from it."""
        return self.get("seed", 0)

    @property
    def num_models(self) -> int:
        return self.get("nmodels", 1)

    @cached_property
    def summary(self) -> dict[str, Any]:
        return read_summary(self.folder)

    @property
    def is_finished(self) -> bool:
        return is_finished(self.folder)

    @property
    def status(self) -> tuple[str, str]:
        """finished, pruned, evaluated, searched, failed, interrupted or running, and the first line of its error."""
        status = self.summary.get("status")
        if status in ("finished", "pruned", "evaluated", "searched"):
            return status, ""
        if is_locked(self.folder):
            return "running", ""
        if status is not None:
            return status, self.summary.get("error", "").split("\n")[0]
        return ("failed", self.last_error) if self.last_error else ("interrupted", NO_SUMMARY)

    @cached_property
    def last_error(self) -> str:
        """The last error in its log, where it failed before it could begin; empty where there is none."""
        try:
            logs = [path.read_text(errors="replace") for path in self.folder.glob("*.log") if path.is_file()]
        except OSError as error:
            return f"its log cannot be read: {one_line(error)}"
        errors = [line.split("[ERROR] - ")[1] for text in logs for line in text.splitlines() if "[ERROR] - " in line]
        return errors[-1] if errors else ""

    def trained(self) -> "Run":
        """The run that was trained: itself, or of a job that a sweep skipped, the finished run of an earlier one."""
        run, seen = self, set()
        while run.summary.get("status") == "skipped":
            seen.add(os.path.realpath(run.folder))
            run = Run(Path(run.summary.get("finished_in", run.folder)))
            if os.path.realpath(run.folder) in seen or not (run.folder / SETTINGS).is_dir():
                raise UserError(f"{self.folder} was skipped for {run.folder}, which is no finished run")
        return run

    @property
    def started(self) -> float:
        """When it began, in seconds of the system's clock: Hydra's own settings are written once."""
        return (self.folder / SETTINGS / "hydra.yaml").stat().st_mtime

    @property
    def has_metrics(self) -> bool:
        return (self.folder / METRICS).exists()

    @cached_property
    def history(self) -> "History":
        """Its metrics, of one epoch at least."""
        from projectlib.runs.history import History

        history = History.read(self.folder / METRICS)
        if not history.rows:
            raise UserError(f"{self.folder / METRICS} has no row; expected at least the epoch before training")
        return history

    def curve(self, split: str, metric: str) -> tuple["np.ndarray", "np.ndarray"]:
        """Epochs (E,) and values (E, num_models) of one metric."""
        frame = self.history.frame
        rows = frame[(frame["split"] == split) & frame[metric].notna()] if metric in frame else frame[:0]
        if rows.empty:
            raise UserError(f"{self.folder / METRICS} has no {metric} of split {split}")
        table = rows.pivot_table(index="epoch", columns="model", values=metric)
        if table.isna().to_numpy().any():
            raise UserError(f"{self.folder / METRICS} lacks rows: its epochs differ in their number of models")
        return table.index.to_numpy(), table.to_numpy()

    def arrays(self, stack: str = "arrays") -> dict[str, "np.ndarray"]:
        """All of ``arrays.npz`` or ``traces.npz``, stacked over epochs."""
        import numpy as np

        path = self.folder / f"{stack}.npz"
        try:
            if path.exists() and not path.is_file():
                raise OSError("it is no file")
            with np.load(path, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except FileNotFoundError:
            hint = "; log_arrays of its training settings was empty" if stack == "arrays" else ""
            raise UserError(f"{path} does not exist{hint}") from None
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged: {error}") from None

    def __str__(self) -> str:
        state = "" if self.is_finished else ", not finished"
        return f"{self.folder} ({' '.join(self.overrides) or 'defaults'}{state})"


def find_runs(root: str | Path) -> Iterator[Run]:
    """Every run at or below a folder, in natural order (2 before 10); hidden folders are left out.

    Links are followed, and each folder is looked at once, whatever leads to it.
    """
    seen: set[str] = set()
    for place, folders, _ in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        is_run, known = SETTINGS in folders, real in seen
        seen.add(real)
        if is_run and not known:
            yield Run(Path(place))
        folders[:] = [] if is_run or known else sorted((f for f in folders if not f.startswith(".")), key=natural)


def natural(name: str) -> tuple[bool, int, str]:
    """Sorts numbers by value and before words."""
    is_decimal = name.isascii() and name.isdigit() and len(name) < 100
    return (not is_decimal, int(name) if is_decimal else 0, name)


def open_runs(folders: Folders) -> list[Run]:
    """Run folders, folders of runs (such as a sweep), or globs of either, as runs, each once, in the order given.

    Raises UserError where one of them holds no run.
    """
    given = [folders] if isinstance(folders, str | Path) else list(folders)
    if not given:
        raise UserError("no run folder was given; expected at least one")
    found: dict[str, Run] = {}
    for item in given:
        places = [item] if Path(item).exists() else sorted(glob.glob(str(item), recursive=True))
        runs = [run for place in places for run in find_runs(place) if (run.folder / SETTINGS / "config.yaml").exists()]
        if not runs:
            reason = "holds no run" if places else "does not exist"
            raise UserError(f"{item} {reason}; expected a run folder, with {SETTINGS}/config.yaml in it")
        found |= {os.path.realpath(run.folder): run for run in runs}
    return [*found.values()]


def all_runs(roots: Sequence[str | Path]) -> list[Run]:
    """Every run below folders of runs that can be told what it is, newest first; a folder may be missing."""
    runs = (run for root in roots for run in find_runs(root) if is_readable(run))
    return sorted(runs, key=lambda run: run.started, reverse=True)


def is_readable(run: Run) -> bool:
    try:
        return bool(run.script) and (run.experiment is not None or bool(run.config))
    except UserError:
        return False
