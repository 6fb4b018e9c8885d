"""Jobs of a sweep: what makes two of them the same, where a finished one is, and what it is worth.

Nothing here imports torch: a job that is skipped costs as little as its config.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from projectlib.config.settings import WITHOUT_EFFECT, flatten, is_among, plain
from projectlib.errors import UserError
from projectlib.runs.files import write_text
from projectlib.runs.folder import checkpoint_folder, is_finished, read_config


def with_effect(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted key without those that change no number."""
    return {key: value for key, value in settings.items() if not is_among(key, WITHOUT_EFFECT)}


def settings_digest(config: DictConfig) -> str:
    """A digest of all settings that change results: equal only for runs that give the same numbers with one code."""
    settings = flatten(plain(config, resolve=True))
    text = json.dumps(with_effect(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def index_entry(script: str, config: DictConfig) -> Path:
    """The file that names the folder of the finished run of ``config``: one look, however many runs there are."""
    return Path("multirun", script, ".finished", settings_digest(config))


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
        same = settings_digest(read_config(folder)) == settings_digest(config)  # a folder may have been used again
    except (OSError, ValueError, UserError, OmegaConfBaseException):
        return None
    return folder if same and is_finished(folder) else None


def resume_in_place(config: DictConfig, folder: Path) -> None:
    """Have a run resume in its own folder where that has a checkpoint: it was queued, or issued, again."""
    if any(checkpoint_folder(folder, config.checkpointing.path).glob("epoch-*.pt")):
        config.resume = str(folder)


def objective(metrics: dict[str, Any], name: str) -> float | None:
    """The mean over models of ``split/metric`` in a summary's metrics; None where it was not measured."""
    split, metric = name.split("/")
    return metrics.get(split, {}).get(metric, {}).get("mean")


def as_text(value: Any) -> str:
    """A plain value as the command line takes it; empty for None."""
    if value is None:
        return ""
    if isinstance(value, list | dict | bool):
        return json.dumps(value, separators=(",", ":"), default=str, skipkeys=True)
    return str(value)
