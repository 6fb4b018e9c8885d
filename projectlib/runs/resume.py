"""Resuming a run in its own folder: which folder, which settings, and what may be another.

A run is built again from the values in its folder's ``.hydra/config.yaml`` and from the overrides that it is resumed
with; nothing else of the folder has a say, and nothing in it is run.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from projectlib.config.compose import compose, parse, quote, without_hydra
from projectlib.config.settings import RESUMABLE, RESUMABLE_UNNAMED, is_among, plain_settings, refuse_resolvers, settled
from projectlib.errors import UserError
from projectlib.runs.folder import HYDRA_FOLDER, checkpoint_folder, read_config, write_settings
from projectlib.runs.run import Run, find_runs

STOPPED = ("failed", "interrupted")  # what resume=auto looks for


def split_resume(overrides: list[str]) -> tuple[str | None, list[str]]:
    """What ``resume=`` names among overrides, as it was written, and the other overrides."""
    named = [item for item in overrides if item.startswith("resume=")]
    wanted = named[-1].removeprefix("resume=").strip("'\"") if named else "null"
    return None if wanted in ("", "null") else wanted, [item for item in overrides if item not in named]


def sets(overrides: Sequence[str], *keys: str) -> bool:
    """Whether overrides set one of the keys."""
    return any(override.key_or_group in keys for override in parse([*overrides]))


def resumed_overrides(folder: Path, overrides: list[str]) -> list[str]:
    """What Hydra composes a resumed job from: overrides of groups, top keys, sweeps and Hydra itself, and a data set.

    Nothing of the folder is among them: its settings take the place of what is composed (``resumed_config``).
    """
    chosen = [
        str(override.input_line)
        for override in parse(overrides)
        if override.is_hydra_override() or override.is_sweep_override() or "." not in override.key_or_group
    ]
    data = [] if any(word.startswith("data=") for word in chosen) else ["data=digits"]  # one has to be chosen
    return [*data, *chosen, f"hydra.run.dir={quote(folder)}"]


def resumed_config(composed: DictConfig, folder: Path, overrides: list[str]) -> DictConfig:
    """The folder's saved settings, with those overrides that a resumed run may have.

    composed: what Hydra composed; it holds the overridden groups.
    """
    saved = read_config(folder)
    refuse_resolvers(saved, f"{folder}/.hydra/config.yaml")
    refuse_new_place(saved, folder, overrides)
    for key in ("search", "evaluate"):
        if (value := OmegaConf.select(saved, key)) is not None:
            raise UserError(f"{key} is {value!r:.50} in {folder}; expected null: only what trains can be resumed")
    for override in sorted(parse(overrides), key=lambda override: "." in override.key_or_group):  # choices come first
        key = override.key_or_group
        if is_among(key, RESUMABLE):
            value = override.value() if "." in key else OmegaConf.select(composed, key)
            set_setting(saved, key, value, folder, merge=False)
    OmegaConf.update(saved, "resume", str(folder))
    return settled(saved)


def refuse_new_place(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Raises UserError where a folder, and not the user, would have checkpoints written where none are yet."""
    path = OmegaConf.select(config, "checkpointing.path")
    if not isinstance(path, str) or sets(overrides, "checkpointing.path"):
        return
    if Path(path).expanduser().is_absolute() and not (place := checkpoint_folder(folder, path)).is_dir():
        raise UserError(
            f"checkpointing.path of {folder} is {path!r}, and there is no {place}; expected what the run has "
            f"made: if it was moved, name its place, checkpointing.path={path}"
        )


def set_setting(config: DictConfig, key: str, value: Any, folder: Path, merge: bool = True) -> None:
    """Set one key of a run's config.  Raises UserError where the config has a list in place of a table."""
    try:
        OmegaConf.update(config, key, value, merge=merge)
    except ValueError as error:
        raise UserError(f"{folder} has no settings where {key} should be ({error})") from None


def keep_settings(config: DictConfig, folder: Path) -> bool:
    """Write ``.hydra/`` of a new run, as Hydra does by itself: the config, Hydra's own settings and the overrides.

    Returns False, with nothing written, where the folder has those of the same run.  Raises UserError where it has
    those of a run with other settings.
    """
    if (folder / HYDRA_FOLDER / "config.yaml").exists():
        if differing := differences(config, read_config(folder), folder, RESUMABLE_UNNAMED):
            raise UserError(
                f"{folder} holds a run with other settings: {', '.join(differing)}; expected a folder of its own for "
                "each run: choose another hydra.run.dir or hydra.sweep.dir"
            )
        return False
    write_settings(folder, **hydra_settings(), config=config)  # last: a folder that has a config has all of them
    return True


def hydra_settings() -> dict[str, Any]:
    """Hydra's own settings of this job and its overrides, as ``.hydra/`` keeps them; nothing outside of a job."""
    if not HydraConfig.initialized():
        return {}
    hydra: Any = HydraConfig.instance().cfg
    return {"hydra": hydra, "overrides": hydra.hydra.overrides.task}


def extends(folder: Path, overrides: list[str]) -> bool:
    """Whether the overrides ask for another number of epochs than that of the run."""
    asked = [override.value() for override in parse(overrides) if override.key_or_group == "training.nepochs"]
    return bool(asked) and asked[-1] != OmegaConf.select(read_config(folder), "training.nepochs")


def check_unchanged(folder: Path, config_name: str, overrides: list[Override]) -> None:
    """Raises UserError where overrides would change a setting of the run in ``folder`` that may not change.

    One that may, such as the number of epochs, may change another that may not: the length of a schedule.
    """
    run = Run(folder)
    if run.script != config_name:
        raise UserError(f"{folder} is a run of {run.script}; expected one of {config_name}")
    changed, differing = run.config.copy(), []
    for override in overrides:
        if override.is_hydra_override() or override.is_sweep_override():  # Hydra refuses a sweep
            continue
        key, value = override.key_or_group, None if override.is_delete() else override.value()
        if key not in run.choices:
            set_setting(changed, key, value, folder)
        elif value != run.choices[key] and (override.is_delete() or not is_among(key, RESUMABLE)):
            differing.append(f"{key} (now {value!r}, run {run.choices[key]!r})")
    if differing := [*differing, *differences(changed, run.config, folder)]:
        raise UserError(
            f"{folder} was run with other settings: {', '.join(differing)}; leave them out to resume it, "
            "or leave out resume to start a new run"
        )


def newest_unfinished(config_name: str, overrides: list[str], config_dir: str | Path | None) -> Path | None:
    """The newest folder under outputs/<config>/ of the same composed config whose training was stopped."""
    config = settled(without_hydra(compose(config_name, overrides, config_dir)))
    free = tuple(key for key in RESUMABLE_UNNAMED if key != "training.nepochs" or sets(overrides, key))
    for run in sorted(find_runs(Path("outputs", config_name)), key=lambda run: run.started, reverse=True):
        try:
            if run.status[0] in STOPPED and not differences(config, run.config, run.folder, free):
                return run.folder
        except UserError as error:
            print(f"resume=auto leaves {run.folder} alone: {error}", file=sys.stderr)
    return None


def differences(
    new: DictConfig | dict, old: DictConfig | dict, origin: Path, free: tuple[str, ...] = RESUMABLE
) -> list[str]:
    """The settings, in words, in which two configs differ, but for the free ones, which a resumed run may change.

    Raises UserError, which names ``origin``, where a reference leads nowhere.
    """
    now, run = plain_settings(new, origin), plain_settings(old, origin)
    changed = [key for key in {**now, **run} if now.get(key) != run.get(key) and not is_among(key, free)]
    return [f"{key} (now {now.get(key)!r}, run {run.get(key)!r})" for key in changed]
