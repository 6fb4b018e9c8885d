"""Going on with a run in its own folder: which folder, which settings, and which checkpoint."""

import json
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projectlib.errors import UserError
from projectlib.runs.files import write_text

CHANGEABLE = (
    *("training.nepochs", "training.log_interval", "logger", "device", "checkpointing", "resume"),
    *("size", "figure"),  # names for settings that are checked themselves
)
"""Settings that a resumed run may change; all others come from its folder."""

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def resumed_arguments(script: str, arguments: list[str]) -> list[str]:
    """The command line that goes on in the folder named by ``resume=``, or ``arguments`` as they are.

    A sweep resumes job by job, each in its own folder, and is left alone here.  Raises UserError for a folder
    that is no run of this script or a typed setting that differs from the run's.
    """
    named = [argument for argument in arguments if argument.startswith("resume=")]
    wanted = named[-1].removeprefix("resume=").strip("'\"") if named else "null"
    if wanted in ("", "null") or any(argument in ("-m", "--multirun") for argument in arguments):
        return arguments
    typed = [argument for argument in arguments if argument not in named]
    folder = newest_unfinished(script, typed) if wanted == "auto" else Path(wanted)
    if folder is None:
        print(f"no unfinished run of this config in outputs/{script}: starting a new one", file=sys.stderr)
        return typed
    check_unchanged(script, folder, typed)
    saved = read_overrides(folder)
    typed_overrides = parse(typed)
    if is_finished(folder) and not extends(folder, typed_overrides):
        print(f"{folder} is finished: nothing to resume")
        sys.exit(0)
    kept = [old.input_line for old in saved if not any(replaces(new, old) for new in typed_overrides)]
    quoted = quote(folder)
    return [*kept, *typed, f"resume={quoted}", f"hydra.run.dir={quoted}"]


def keep_settings(config: DictConfig, folder: Path) -> None:
    """Write ``.hydra/`` of a new run, as Hydra does by itself: the config, Hydra's own settings and what was typed.

    Raises UserError, with nothing written, where the folder has those of a run with other settings.
    """
    place = folder / ".hydra"
    if (place / "config.yaml").exists():
        if differing := differences(config, read_yaml(folder, "config.yaml")):
            raise UserError(
                f"{folder} holds a run with other settings: {', '.join(differing)}; expected a folder of its own for "
                "each run: choose another hydra.run.dir or hydra.sweep.dir"
            )
        return
    place.mkdir(parents=True, exist_ok=True)
    hydra = HydraConfig.instance().cfg
    nodes = {"config.yaml": config, "hydra.yaml": hydra, "overrides.yaml": hydra.hydra.overrides.task}
    for name, node in nodes.items():
        write_text(place / name, OmegaConf.to_yaml(node))


def quote(path: Path) -> str:
    """A path as a value on Hydra's command line, whatever characters it has."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def parse(arguments: list[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides([a for a in arguments if not a.startswith("-")])


def read_yaml(folder: Path, name: str) -> Any:
    path = Path(folder) / ".hydra" / name
    try:
        return OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no run folder: it has no .hydra/{name}; expected a folder that an entry script wrote"
        ) from None
    except Exception as error:  # whatever a broken yaml makes OmegaConf raise
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def read_overrides(folder: Path) -> list[Override]:
    """What was typed when the run in ``folder`` began; nothing of Hydra's own, which may run commands."""
    return [override for override in parse([*read_yaml(folder, "overrides.yaml")]) if not is_hydra(override)]


def is_hydra(override: Override) -> bool:
    return override.key_or_group.split("/")[0].split(".")[0] == "hydra"


def is_finished(folder: Path) -> bool:
    """Whether a run folder's summary says so; without a readable summary it is not."""
    try:
        return json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))["status"] == "finished"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def replaces(new: Override, old: Override) -> bool:
    """Whether an override sets what an older one set, or the group that holds it."""
    return f"{old.key_or_group}.".startswith(f"{new.key_or_group}.")


def extends(folder: Path, typed: list[Override]) -> bool:
    """Whether the typed number of epochs is another than that of the run."""
    asked = [override.value() for override in typed if override.key_or_group == "training.nepochs"]
    return bool(asked) and asked[-1] != OmegaConf.select(read_yaml(folder, "config.yaml"), "training.nepochs")


def is_changeable(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE)


def check_unchanged(script: str, folder: Path, typed: list[str]) -> None:
    """Raises UserError where a typed setting differs from that of the run in ``folder``."""
    config, hydra = read_yaml(folder, "config.yaml"), read_yaml(folder, "hydra.yaml").hydra
    if hydra.job.name != script:
        raise UserError(f"{folder} is a run of {hydra.job.name}.py; expected one of {script}.py")
    choices, differing = hydra.runtime.choices, []
    for override in parse(typed):
        key, value = override.key_or_group, override.value()
        if is_changeable(key) or is_hydra(override):
            continue
        changed = OmegaConf.create(OmegaConf.to_container(config))
        OmegaConf.update(changed, key, value)
        now, saved = (value, choices[key]) if key in choices else (plain_value(c, key) for c in (changed, config))
        if now != saved:
            differing.append(f"{key} (now {now!r}, run {saved!r})")
    if differing:
        raise UserError(refusal(folder, differing))


def plain_value(config: DictConfig, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def refusal(folder: Path, differing: list[str]) -> str:
    return (
        f"{folder} was run with other settings: {', '.join(differing)}; leave them out to resume it, "
        "or leave out resume to start a new run"
    )


def newest_unfinished(script: str, typed: list[str]) -> Path | None:
    """The newest folder under outputs/<script>/ of the same composed config whose run has not finished."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        wanted = comparable(compose(script, [argument for argument in typed if not argument.startswith("-")]))
    for path in sorted(Path("outputs", script).glob("*/*/.hydra/config.yaml"), reverse=True):
        folder = path.parent.parent
        try:
            if not is_finished(folder) and comparable(read_yaml(folder, "config.yaml")) == wanted:
                return folder
        except OmegaConfBaseException:
            continue  # a config that never was whole
        except UserError as error:
            print(f"resume=auto leaves {folder} alone: {error}", file=sys.stderr)
    return None


def comparable(config: DictConfig | dict) -> dict[str, Any]:
    """A config's values by key, interpolations resolved, without what a resumed run may change."""
    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    return {key: value for key, value in flatten(plain) if not is_changeable(key)}


def flatten(node: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """``{"a": {"b": 1}}`` -> ``[("a.b", 1)]``."""
    return [
        item
        for key, value in node.items()
        for item in (flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)])
    ]


def differences(new: DictConfig | dict, old: DictConfig | dict) -> list[str]:
    """The settings, in words, that differ and that a resumed run may not change."""
    new, old = comparable(new), comparable(old)
    return [
        f"{key} (now {new.get(key)!r}, run {old.get(key)!r})"
        for key in dict.fromkeys([*new, *old])
        if new.get(key) != old.get(key)
    ]


def resumed_config(config: DictConfig, folder: Path) -> DictConfig:
    """The folder's own settings with the changeable ones of ``config``, which the folder keeps from now on.

    Raises UserError where a changed setting changes another that may not: the length of a schedule.
    """
    saved = read_yaml(folder, "config.yaml")
    before = comparable(saved)
    for key in CHANGEABLE:
        if key != "resume" and OmegaConf.select(config, key) is not None:
            OmegaConf.update(saved, key, OmegaConf.select(config, key), merge=False)
    if differing := differences(saved, before):
        raise UserError(refusal(folder, differing))
    typed = [line for line in HydraConfig.get().overrides.task if not line.startswith("resume=")]
    write_text(folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(typed))
    write_text(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(saved))
    OmegaConf.set_struct(saved, True)
    return saved
