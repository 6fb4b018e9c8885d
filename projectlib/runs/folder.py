"""Run folders, read back: settings, metrics and arrays."""

import glob
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projectlib.errors import UserError
from projectlib.runs.history import History
from projectlib.runs.resume import flatten, is_finished, read_yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the compiled one where there is one
Folders = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Run:
    """One run folder.  All that is read from it raises UserError where it is missing, empty or damaged."""

    folder: Path

    @cached_property
    def config(self) -> DictConfig:
        return read_yaml(self.folder, "config.yaml")

    @cached_property
    def hydra(self) -> dict[str, Any]:
        """Hydra's own settings, without OmegaConf, which takes thirty times as long to read them."""
        path = self.folder / ".hydra" / "hydra.yaml"
        try:
            settings = yaml.load(path.read_text(encoding="utf-8"), LOADER)["hydra"]
            return {key: settings[key] for key in ("job", "runtime", "mode", "overrides")}
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings by dotted key, interpolations resolved."""
        try:
            return dict(flatten(OmegaConf.to_container(self.config, resolve=True)))
        except (OmegaConfBaseException, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.folder / '.hydra' / 'config.yaml'} is damaged: {reason}") from None

    def get(self, key: str, default: Any = None) -> Any:
        """One setting, e.g. ``get("data.batchsize")``; the default where there is none."""
        value = self.settings.get(key)
        return default if value is None else value

    @property
    def script(self) -> str:
        return self.hydra["job"]["name"]

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
        """What was typed."""
        return list(self.hydra["overrides"]["task"])

    @property
    def is_reservoir(self) -> bool:
        return self.get("task") == "reservoir"

    @property
    def is_finished(self) -> bool:
        return is_finished(self.folder)

    @property
    def started(self) -> float:
        """When it began, in seconds of the system's clock: Hydra's own settings are written once."""
        return (self.folder / ".hydra" / "hydra.yaml").stat().st_mtime

    @cached_property
    def history(self) -> History:
        """Its metrics, of one epoch at least."""
        history = History.read(self.folder / "metrics.csv")
        if not history.rows:
            raise UserError(f"{self.folder / 'metrics.csv'} has no row; expected at least the epoch before training")
        return history

    def curve(self, split: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Epochs (E,) and values (E, num_models) of one metric."""
        rows = [row for row in self.history.rows if row["split"] == split and metric in row]
        if not rows:
            raise UserError(f"{self.folder / 'metrics.csv'} has no {metric} of split {split}")
        epochs = np.unique([row["epoch"] for row in rows])
        values = [self.history.values(epoch, split, metric) for epoch in epochs]
        if len({len(models) for models in values}) > 1:
            raise UserError(f"{self.folder / 'metrics.csv'} lacks rows: its epochs differ in their number of models")
        return epochs, np.array(values)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """All of ``traces.npz`` or ``arrays.npz``, stacked over epochs."""
        path = self.folder / name
        try:
            with np.load(path, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except FileNotFoundError:
            hint = "; log_arrays of its training settings was empty" if name == "arrays.npz" else ""
            raise UserError(f"{path} does not exist{hint}") from None
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged: {error}") from None

    def __str__(self) -> str:
        state = "" if self.is_finished else ", not finished"
        return f"{self.folder} ({' '.join(self.overrides) or 'defaults'}{state})"


def open_runs(folders: Folders) -> list[Run]:
    """Run folders, folders of runs (such as a sweep), or globs of either, as runs, each once, in the order given.

    Raises UserError where one of them holds no run.
    """
    given = [folders] if isinstance(folders, str | Path) else list(folders)
    if not given:
        raise UserError("no run folder was given; expected at least one")
    runs = [run for item in given for run in runs_in(item)]
    return [Run(folder) for folder in dict.fromkeys(run.folder for run in runs)]


def runs_in(item: str | Path) -> list[Run]:
    """The runs at or below a folder, or below all that a glob matches, by path."""
    here = Path(item)
    places = [here] if here.exists() else [Path(path) for path in sorted(glob.glob(str(item), recursive=True))]
    found = [path.parent.parent for place in places for path in sorted(place.glob("**/.hydra/config.yaml"))]
    if not found:
        problem = "holds no run" if places else "does not exist"
        raise UserError(f"{item} {problem}; expected a run folder, with .hydra/config.yaml in it")
    return [Run(folder) for folder in found]


def all_runs(roots: Sequence[str | Path]) -> list[Run]:
    """Every run below folders of runs that can be told what it is, newest first; a folder may be missing."""
    runs = [Run(path.parent.parent) for root in roots for path in Path(root).glob("**/.hydra/hydra.yaml")]
    return sorted((run for run in runs if is_readable(run)), key=lambda run: run.started, reverse=True)


def is_readable(run: Run) -> bool:
    try:
        return bool(run.script) and (run.experiment is not None or bool(run.config))
    except UserError:
        return False
