"""Jobs of a sweep: what makes two of them the same, where a finished one is, and what it is worth.

Nothing here imports torch: a job that is skipped costs as little as its config.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projectlib.errors import UserError
from projectlib.runs.checkpoint_folder import checkpoint_folder
from projectlib.runs.files import write_text
from projectlib.runs.resume import flatten, is_finished, read_yaml

WITHOUT_EFFECT = (
    *("training.log_interval", "logger", "device", "checkpointing"),
    *("resume", "evaluate", "objective", "sweep", "search", "size", "figure"),
)
"""Keys, with all below them, that change no number of a run."""


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """A config's values by dotted key, without those that change no number."""
    return {
        key: value
        for key, value in flatten(config)
        if not any(key == name or key.startswith(f"{name}.") for name in WITHOUT_EFFECT)
    }


def identity(config: DictConfig) -> str:
    """The same for two configs only if their runs give the same numbers (with the same code)."""
    text = json.dumps(settings(OmegaConf.to_container(config, resolve=True)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def index_entry(script: str, config: DictConfig) -> Path:
    """The file that names the folder of the finished run of ``config``: one look, however many runs there are."""
    return Path("multirun", script, ".finished", identity(config))


def note_finished(script: str, config: DictConfig, folder: Path) -> None:
    entry = index_entry(script, config)
    entry.parent.mkdir(parents=True, exist_ok=True)
    own = entry.with_suffix(f".{os.getpid()}")  # jobs of the same settings may end at the same time
    write_text(own, str(Path(folder).absolute()))
    own.replace(entry)


def finished_run(script: str, config: DictConfig) -> Path | None:
    """The folder of a finished run of the same settings by any sweep of this script; None where there is none."""
    try:
        folder = Path(index_entry(script, config).read_text(encoding="utf-8"))
    except OSError:
        return None
    try:
        same = identity(read_yaml(folder, "config.yaml")) == identity(config)  # a folder may have been used again
    except (UserError, OmegaConfBaseException):
        return None
    return folder if same and is_finished(folder) else None


def resume_in_place(config: DictConfig, folder: Path) -> None:
    """Have a run go on in its own folder where that has a checkpoint: it was queued, or issued, again."""
    if any(checkpoint_folder(folder, config.checkpointing.path).glob("epoch-*.pt")):
        config.resume = str(folder)


def objective(metrics: dict[str, Any], name: str) -> float | None:
    """The mean over models of ``split/metric`` in a summary's metrics; None where it was not measured."""
    split, metric = name.split("/")
    return metrics.get(split, {}).get(metric, {}).get("mean")


def read_summary(folder: Path) -> dict[str, Any]:
    """What summary.json of a run folder says; empty where there is none that can be read."""
    try:
        summary = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def as_text(value: Any) -> str:
    """A plain value as it is typed on the command line; empty for None."""
    if value is None:
        return ""
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list | dict | bool) else str(value)
