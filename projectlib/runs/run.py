"""Runs as objects, what is asked of them, and the search for them.

Importing this, and reading settings and summaries, needs neither torch nor pandas.
"""

import glob
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from projectlib.config.bounds import LARGEST_TEXT
from projectlib.config.settings import plain_settings
from projectlib.errors import UserError, one_line
from projectlib.runs.files import is_locked
from projectlib.runs.folder import HYDRA_FOLDER, METRICS, TABLE, is_finished, read_config, read_settings, read_summary
from projectlib.values import ANYTHING, COUNT, TEXT, WHOLE, problem

if TYPE_CHECKING:
    import numpy as np

    from projectlib.runs.history import History

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
NO_SUMMARY = "it ended without a word (killed, or the machine went down): issue the sweep again in its folder"

Folders = str | Path | Sequence[str | Path]


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
            raise UserError(f"{self.folder / HYDRA_FOLDER}/config.yaml: {wrong}")
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
        """What was chosen of every group of configs, by group."""
        return self.hydra["runtime"]["choices"]

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
            logs = [last_part(path) for path in self.folder.glob("*.log") if path.is_file()]
        except OSError as error:
            return f"its log cannot be read: {one_line(error)}"
        errors = [line.split("[ERROR] - ")[1] for text in logs for line in text.splitlines() if "[ERROR] - " in line]
        return errors[-1] if errors else ""

    def trained(self) -> "Run":
        """This run, or for a job that a sweep skipped the finished run that it stands for."""
        if self.summary.get("status") != "skipped":
            return self
        run = Run(Path(self.summary.get("finished_in", self.folder)))
        if run.summary.get("status") == "skipped" or not (run.folder / HYDRA_FOLDER).is_dir():
            raise UserError(f"{self.folder} was skipped for {run.folder}, which is no finished run")
        return run

    @property
    def started(self) -> float:
        """When it began, in seconds of the system's clock: Hydra's own settings are written then (0: none)."""
        try:
            return (self.folder / HYDRA_FOLDER / "hydra.yaml").stat().st_mtime
        except OSError:
            return 0.0

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
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise OSError("it is compressed, as no run writes it: it may stand for more than memory holds")
            with np.load(path, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except FileNotFoundError:
            hint = "; log_arrays of its training settings was empty" if stack == "arrays" else ""
            raise UserError(f"{path} does not exist{hint}") from None
        except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged: {error}") from None

    def __str__(self) -> str:
        state = "" if self.is_finished else ", not finished"
        return f"{self.folder} ({' '.join(self.overrides) or 'defaults'}{state})"


def last_part(path: Path) -> str:
    """The end of a text of any size."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LARGEST_TEXT))
        return file.read(LARGEST_TEXT).decode(errors="replace")


def find_runs(root: str | Path) -> Iterator[Run]:
    """Every run at or below a folder, in natural order (2 before 10); hidden folders are left out.

    Links are followed, and each folder is looked at once, whatever leads to it.
    """
    seen: set[str] = set()
    for place, folders, _ in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        is_run, known = HYDRA_FOLDER in folders, real in seen
        seen.add(real)
        if is_run and not known:
            yield Run(Path(place))
        folders[:] = [] if is_run or known else sorted((f for f in folders if not f.startswith(".")), key=natural)


def natural(name: str) -> tuple[bool, int, str]:
    """Sorts numbers by value and before words."""
    return (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)


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
        runs = [
            run for place in places for run in find_runs(place) if (run.folder / HYDRA_FOLDER / "config.yaml").exists()
        ]
        if not runs:
            reason = "holds no run" if places else "does not exist"
            raise UserError(f"{item} {reason}; expected a run folder, with {HYDRA_FOLDER}/config.yaml in it")
        found |= {os.path.realpath(run.folder): run for run in runs}
    return [*found.values()]


def all_runs(roots: Sequence[str | Path]) -> list[Run]:
    """Every run below these folders whose script and settings can be read, newest first; a folder may be missing."""
    runs = []
    for run in (run for root in roots for run in find_runs(root)):
        with suppress(UserError):
            if run.script and run.settings:
                runs.append(run)
    return sorted(runs, key=lambda run: run.started, reverse=True)
