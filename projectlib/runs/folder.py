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
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projectlib.config.bounds import check_yaml
from projectlib.config.settings import plain_settings
from projectlib.errors import UserError
from projectlib.runs.files import is_locked, remove_partial_files, write_text, write_whole

if TYPE_CHECKING:
    import numpy as np

    from projectlib.runs.history import History

SETTINGS, METRICS, SUMMARY, FIGURES, STACKS = ".hydra", "metrics.csv", "summary.json", "figures", ("arrays", "traces")
NO_SUMMARY = "it ended without a word (killed, or the machine went down): issue the sweep again in its folder"
IN_PLACE = ("*.log", ".lock", SETTINGS, f"{SETTINGS}/*", FIGURES, f"{FIGURES}/*", "tensorboard", "wandb")
LARGEST_TEXT = 2**22
UNREADABLE = (OSError, ValueError, RecursionError)  # what JSON and text raise, ints of thousands of digits included

Folders = str | Path | Sequence[str | Path]


FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(FastLoader):
    """Reads YAML as OmegaConf does, thirty times as fast where there is the compiled parser.

    As there, 1e-4 is a number and 2026-11-24 is text.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (as that of its parent)
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


NUMBER = re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$")
Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, [*"-+0123456789"])


def read_text(path: Path) -> str:
    """A file's text; other than a plain ``open`` it waits for no pipe.  Raises OSError or ValueError."""
    if path.exists() and not path.is_file():
        raise OSError("it is no file")
    if path.exists() and (size := path.stat().st_size) > LARGEST_TEXT:
        raise OSError(f"it has {size:,} bytes, and no run writes more than {LARGEST_TEXT:,}")
    return path.read_text(encoding="utf-8")


def read_settings(folder: Path, name: str) -> Any:
    """One file of ``.hydra/`` as plain values; a config.yaml is without effect until somebody builds from it.

    Raises UserError where it is missing or broken.
    """
    path = Path(folder) / SETTINGS / name
    try:
        text = read_text(path)
        check_yaml(text, aliases=False)
        return {} if (content := yaml.load(text, Loader)) is None else content
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no run folder: it has no {SETTINGS}/{name}; expected a folder that an entry script wrote"
        ) from None
    except (*UNREADABLE, TypeError, yaml.YAMLError) as error:  # TypeError: a list as a key
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None


def read_yaml(folder: Path, name: str) -> DictConfig:
    """``read_settings`` as OmegaConf's own type.  Raises UserError, also where it is no table of settings."""
    path, plain = Path(folder) / SETTINGS / name, read_settings(folder, name)
    if not isinstance(plain, dict):
        raise UserError(f"{path} cannot be read: expected settings, one a line, but it is {type(plain).__name__}")
    try:
        return OmegaConf.create(plain)
    except (OmegaConfBaseException, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None


def write_settings(folder: Path, **nodes: DictConfig | ListConfig) -> None:
    """Write ``.hydra/<name>.yaml`` for each node."""
    (Path(folder) / SETTINGS).mkdir(parents=True, exist_ok=True)
    for name, node in nodes.items():
        write_text(Path(folder) / SETTINGS / f"{name}.yaml", OmegaConf.to_yaml(node))


def read_summary(folder: Path) -> dict[str, Any]:
    """What summary.json says; empty where there is none.  Raises UserError where it is not what a run writes."""
    path = Path(folder) / SUMMARY
    try:
        summary = json.loads(read_text(path))
    except FileNotFoundError:
        return {}
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None
    if difference := summary_difference(summary):
        raise UserError(f"{path} is not what a run writes: {difference}")
    return summary


def summary_difference(summary: Any) -> str | None:
    """What of a summary is not of the type that a run writes, in words."""
    if not isinstance(summary, dict):
        return f"it is {type(summary).__name__}, expected names and values"
    for name in ("status", "error", "device", "finished_in"):
        if not isinstance(summary.get(name, ""), str):
            return f"{name} is {summary[name]!r:.50}, expected text"
    for name in ("steps_per_second", "compile_seconds", "wall_seconds"):
        if not is_number(summary.get(name)):
            return f"{name} is {summary[name]!r:.50}, expected a number"
    for part in ("metrics", "best"):
        splits = summary.get(part, {})
        metrics: list[Any] = [*splits.values()] if isinstance(splits, dict) else [None]
        if not all(isinstance(named, dict) for named in metrics):
            return f"{part} is {splits!r:.50}, expected {{split: {{name: {{mean, sd}}}}}}"
        for value in (value for named in metrics for value in named.values()):
            complete = isinstance(value, dict) and {"mean", "sd"} <= value.keys() and value["mean"] is not None
            if not complete or not all(map(is_number, value.values())):
                return f"{part} has {value!r:.50}, expected {{mean, sd}}"
    return None


def is_number(value: Any) -> bool:
    """Whether a value of a summary may be reckoned with, or was not measured."""
    return value is None or (type(value) in (int, float) and abs(value) < 1e150)  # its square is a number too


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


def has_checkpoint(run_folder: Path, path: str) -> bool:
    """Whether a run has begun to be trained."""
    return any(checkpoint_folder(run_folder, path).glob("epoch-*.pt"))


def refuse_links(run_folder: Path) -> None:
    """Raises UserError where what a run writes in place is a link, to a file of somebody else, or a pipe."""
    for path in (path for name in IN_PLACE for path in Path(run_folder).glob(name)):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is a link or a pipe; expected a file or a folder, as a run writes it: remove it")


def clean(run_folder: Path, checkpoints: Path) -> None:
    """Delete what a killed run has left half-written in its folder, whose lock is held."""
    remove_partial_files(run_folder, Path(run_folder) / SETTINGS, checkpoints)


def write_arrays(folder: Path, stack: str, arrays: dict[str, "np.ndarray"]) -> None:
    """``<stack>.npz`` of a run folder.  stack: one of ``STACKS``."""
    import numpy as np

    write_whole(Path(folder) / f"{stack}.npz", lambda target: np.savez(target, allow_pickle=False, **arrays))


@dataclass(frozen=True)
class Run:
    """One run folder.  All that is read from it raises UserError where it is missing, empty or damaged."""

    folder: Path

    @cached_property
    def config(self) -> DictConfig:
        return read_yaml(self.folder, "config.yaml")

    @cached_property
    def hydra(self) -> dict[str, Any]:
        """Hydra's own settings."""
        settings = read_settings(self.folder, "hydra.yaml")
        try:
            found = {key: settings["hydra"][key] for key in ("job", "runtime", "mode", "overrides")}
            if isinstance(found["job"]["config_name"], str) and isinstance(found["overrides"]["task"], list):
                found["runtime"]["choices"].get("experiment")
                return found
            raise TypeError("its job or overrides are of another type")
        except (KeyError, TypeError, AttributeError) as error:
            path = self.folder / SETTINGS / "hydra.yaml"
            raise UserError(f"{path} cannot be read: expected Hydra's own settings ({one_line(error)})") from None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings by dotted key; references to others resolved, and nothing of the environment looked up."""
        try:
            return plain_settings(read_settings(self.folder, "config.yaml"))
        except (OmegaConfBaseException, AttributeError, ValueError, RecursionError) as error:
            path = self.folder / SETTINGS / "config.yaml"
            raise UserError(f"{path} is damaged: {one_line(error)}") from None

    def get(self, key: str, default: Any = None) -> Any:
        """One setting, e.g. ``get("data.batchsize")``; the default where there is none."""
        value = self.settings.get(key)
        return default if value is None else value

    @property
    def script(self) -> str:
        return self.hydra["job"]["config_name"]

    def choice(self, group: str) -> str | None:
        """What was chosen of a group of configs, e.g. ``choice("rule")``."""
        return self.hydra["runtime"]["choices"].get(group)

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
        return self.whole_number("seed", 0, at_least=0)

    @property
    def num_models(self) -> int:
        return self.whole_number("nmodels", 1, at_least=1)

    def whole_number(self, key: str, default: int, at_least: int) -> int:
        value = self.get(key, default)
        if type(value) is not int or value < at_least:
            path = self.folder / SETTINGS / "config.yaml"
            raise UserError(f"{path}: {key} is {value!r:.50}; expected a whole number of at least {at_least}")
        return value

    @cached_property
    def summary(self) -> dict[str, Any]:
        return read_summary(self.folder)

    @property
    def is_finished(self) -> bool:
        return is_finished(self.folder)

    @property
    def status(self) -> tuple[str, str]:
        """finished, pruned, evaluated, failed, interrupted or running, and the first line of its error."""
        status = self.summary.get("status")
        if status in ("finished", "pruned", "evaluated"):
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


def find_runs(root: str | Path, above: frozenset[str] = frozenset()) -> Iterator[Run]:
    """Every run at or below a folder, in natural order (2 before 10); hidden folders are left out.

    A link is followed, but not back to a folder that it is in.
    """
    place = os.path.realpath(root)
    try:
        with os.scandir(root) as entries:
            folders = {entry.name for entry in entries if is_folder(entry)}
    except OSError:
        return  # gone meanwhile, or not ours to read
    if SETTINGS in folders:
        yield Run(Path(root))
    elif place not in above:
        for name in sorted((name for name in folders if not name.startswith(".")), key=natural):
            yield from find_runs(Path(root, name), above | {place})


def is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


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
    return [*{os.path.realpath(run.folder): run for item in given for run in runs_in(item)}.values()]


def runs_in(item: str | Path) -> list[Run]:
    """The runs at or below a folder, or below all that a glob matches."""
    here = Path(item)
    places = [here] if here.exists() else [Path(path) for path in sorted(glob.glob(str(item), recursive=True))]
    runs = [run for place in places for run in find_runs(place) if (run.folder / SETTINGS / "config.yaml").exists()]
    if not runs:
        problem = "holds no run" if places else "does not exist"
        raise UserError(f"{item} {problem}; expected a run folder, with {SETTINGS}/config.yaml in it")
    return runs


def all_runs(roots: Sequence[str | Path]) -> list[Run]:
    """Every run below folders of runs that can be told what it is, newest first; a folder may be missing."""
    runs = (run for root in roots for run in find_runs(root) if is_readable(run))
    return sorted(runs, key=lambda run: run.started, reverse=True)


def is_readable(run: Run) -> bool:
    try:
        return bool(run.script) and (run.experiment is not None or bool(run.config))
    except UserError:
        return False


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
