"""Going on with a run in its own folder: which folder, which settings, and which checkpoint."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from projectlib.errors import UserError
from projectlib.files import write_text

CHANGEABLE = ("training.nepochs", "training.log_interval", "logger", "device", "checkpointing", "resume")
"""Settings that a resumed run may change; all others come from its folder."""

log = logging.getLogger(__name__)


def resumed_arguments(script: str, arguments: list[str]) -> list[str]:
    """The command line that goes on in the folder named by ``resume=``, or ``arguments`` as they are.

    A sweep resumes job by job, each in its own folder, and is left alone here.  Raises UserError for a folder
    that is no run of this script or a typed setting that differs from the run's.
    """
    if any(argument in ("-m", "--multirun") for argument in arguments):
        return arguments
    named = [argument for argument in arguments if argument.startswith("resume=")]
    if not named or named[-1] in ("resume=", "resume=null"):
        return arguments
    wanted = named[-1].removeprefix("resume=").strip("'\"")
    typed = [argument for argument in arguments if argument not in named]
    folder = newest_unfinished(script, typed) if wanted == "auto" else Path(wanted)
    if folder is None:
        print("resume=auto found no unfinished run of this config: starting a new one", file=sys.stderr)
        return typed
    check_unchanged(script, folder, typed)
    if is_finished(folder) and not any(argument.startswith("training.nepochs=") for argument in typed):
        print(f"{folder} is finished: nothing to resume")
        sys.exit(0)
    keys = {override.key_or_group for override in parse(typed)}
    saved = [line for line in read_yaml(folder, "overrides.yaml") if parse([line])[0].key_or_group not in keys]
    folder_text = str(folder).replace("'", "\\'")
    return [*saved, *typed, f"resume='{folder_text}'", f"hydra.run.dir='{folder_text}'", "hydra.output_subdir=null"]


def parse(arguments: list[str]) -> list:
    return OverridesParser.create().parse_overrides([a for a in arguments if not a.startswith("-")])


def read_yaml(folder: Path, name: str) -> Any:
    path = Path(folder) / ".hydra" / name
    try:
        return OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"{folder} is no run folder: it has no .hydra/{name}") from None
    except Exception as error:  # whatever a broken yaml makes OmegaConf raise
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def is_finished(folder: Path) -> bool:
    """Whether a run folder's summary says so; without a readable summary it is not."""
    try:
        return json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))["status"] == "finished"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_changeable(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE) or key.startswith("hydra")


def check_unchanged(script: str, folder: Path, typed: list[str]) -> None:
    """Raises UserError where a typed setting differs from that of the run in ``folder``."""
    config, hydra = read_yaml(folder, "config.yaml"), read_yaml(folder, "hydra.yaml").hydra
    if hydra.job.name != script:
        raise UserError(f"{folder} is a run of {hydra.job.name}.py; expected one of {script}.py")
    differing = []
    for override in parse(typed):
        key, value = override.key_or_group, override.value()
        if is_changeable(key):
            continue
        saved = hydra.runtime.choices.get(key, OmegaConf.select(config, key))
        saved = OmegaConf.to_container(saved) if OmegaConf.is_config(saved) else saved
        if saved != value:
            differing.append(f"{key} (typed {value!r}, run {saved!r})")
    if differing:
        raise UserError(
            f"{folder} was run with other settings: {', '.join(differing)}; leave them out to resume it, "
            "or leave out resume to start a new run"
        )


def newest_unfinished(script: str, typed: list[str]) -> Path | None:
    """The newest folder under outputs/<script>/ of the same composed config whose run has not finished."""
    with initialize_config_dir(str(Path("configs").absolute()), version_base="1.3"):
        wanted = comparable(compose(script, typed))
    for path in sorted(Path("outputs", script).glob("*/*/.hydra/config.yaml"), reverse=True):
        folder = path.parent.parent
        if not is_finished(folder) and comparable(read_yaml(folder, "config.yaml")) == wanted:
            return folder
    return None


def comparable(config: DictConfig) -> dict:
    """A config as plain values without what a resumed run may change."""
    plain = OmegaConf.create(OmegaConf.to_container(config))
    for key in CHANGEABLE:
        if OmegaConf.select(plain, key) is not None:
            OmegaConf.update(plain, key, None)
    return OmegaConf.to_container(plain)


def resumed_config(config: DictConfig, folder: Path) -> DictConfig:
    """The folder's own settings with the changeable ones of ``config``, which the folder keeps from now on."""
    saved = read_yaml(folder, "config.yaml")
    for key in CHANGEABLE:
        if key != "resume" and OmegaConf.select(config, key) is not None:
            OmegaConf.update(saved, key, OmegaConf.select(config, key), merge=False)
    write_text(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(saved))
    OmegaConf.set_struct(saved, True)
    return saved
