"""The table of settings: which change the numbers of a run, which may change when it is resumed, which are its size."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projectlib.errors import UserError, one_line


class Setting(NamedTuple):
    """What a setting, with all below it, is to a run.

    affects: its numbers, their rounding only (how it is computed, or where data is), or nothing.
    resumable: it may change when a run is resumed.  is_extent: it says how much of a result there is, not which.
    """

    affects: str = "numbers"
    resumable: bool = False
    is_extent: bool = False


SETTINGS = {
    key: setting
    for keys, setting in {
        "nmodels seed training.log_hsic training.log_memory training.log_arrays": Setting(is_extent=True),
        "training.nepochs": Setting(resumable=True, is_extent=True),
        "training.log_interval logger device plugins resume": Setting("nothing", resumable=True),
        "checkpointing.rate checkpointing.minutes": Setting("nothing", resumable=True),
        "checkpointing.path": Setting("nothing"),  # elsewhere a resumed run would find no checkpoint, and start over
        "size figure": Setting("nothing", resumable=True),  # names for settings that are checked themselves
        "evaluate objective sweep search": Setting("nothing"),
        "engine data.test_batchsize": Setting("rounding"),
        "data.root data.source.root": Setting("rounding", resumable=True),  # another machine has the data elsewhere
    }.items()
    for key in keys.split()
}
"""All that are not plain settings of the numbers: a key that is not here is ``Setting()``."""

WITHOUT_EFFECT = tuple(key for key, setting in SETTINGS.items() if setting.affects == "nothing")
SAME_RESULT = tuple(key for key, setting in SETTINGS.items() if setting.affects != "numbers")
EXTENT = tuple(key for key, setting in SETTINGS.items() if setting.is_extent)
RESUMABLE = tuple(key for key, setting in SETTINGS.items() if setting.resumable)
RESUMABLE_UNNAMED = tuple(key for key in RESUMABLE if not key.endswith(".root"))
"""Where the user does not name the run to resume, data at another place counts as other data."""

HELD = "\ue000{"  # hides a "${" that may call a resolver from OmegaConf: of Unicode's private use, in nobody's settings

LASTING = ("${oc.env:BIOHSIC_DATA,data}", "${oc.select:training.time_step,1e-3}")
"""Resolvers that a run folder may hold: where data is on this machine, and a default."""


def is_among(key: str, names: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of ``names`` or below one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def plain(config: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """A config as plain values; references stay as they are written unless they are to be resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))


def flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    flat = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def plain_settings(config: DictConfig | dict, origin: Any) -> dict[str, Any]:
    """A config's values by dotted key, fit to be compared and printed.

    References to other keys are resolved; what a resolver would return (``${oc.env:TOKEN}``) stays the text that it
    is in the config: a config of somebody else must not read this machine's environment into a message or a page.
    Raises UserError, which names ``origin``, where a reference leads nowhere.
    """
    try:
        values = plain(config) if isinstance(config, DictConfig) else config
        held = each_text(lambda text: text.replace("${", HELD) if ":" in text else text, values)
        resolved = plain(DictConfig(held), resolve=True)
        return flatten(each_text(lambda text: text.replace(HELD, "${"), resolved))
    except (OmegaConfBaseException, AttributeError, ValueError, RecursionError) as error:
        raise UserError(f"the settings of {origin} are damaged: {one_line(error)}") from None


def each_text(change: Callable[[str], str], value: Any) -> Any:
    """Plain values with every text, at any depth, changed; keys stay as they are."""
    if isinstance(value, dict):
        return {key: each_text(change, child) for key, child in value.items()}
    if isinstance(value, list):
        return [each_text(change, child) for child in value]
    return change(value) if isinstance(value, str) else value


def calls_resolver(value: Any) -> bool:
    """Whether a value is a text that a resolver fills in, other than the lasting ones."""
    return isinstance(value, str) and "${" in value and ":" in value and value not in LASTING


def settled(config: DictConfig) -> DictConfig:
    """A config with what its resolvers return written out (but for the lasting ones), as a run folder may keep it."""

    def settle(raw: Any, value: Any) -> Any:
        if isinstance(raw, dict):
            return {key: settle(child, value[key]) for key, child in raw.items()}
        if isinstance(raw, list):
            return [settle(*pair) for pair in zip(raw, value, strict=True)]
        if not calls_resolver(raw):
            return raw
        return value.replace("${", r"\${") if isinstance(value, str) else value

    result = DictConfig(settle(plain(config), plain(config, resolve=True)))
    OmegaConf.set_struct(result, True)
    return result


def refuse_resolvers(config: DictConfig, origin: str) -> None:
    """Raises UserError where a folder's config would read this machine's environment, or call a resolver."""
    for key, value in flatten(plain(config)).items():
        if any(map(calls_resolver, leaves(value))):
            raise UserError(f"{key} of {origin} is {value!r}; expected a value: write it out if you trust the folder")


def leaves(value: Any) -> list[Any]:
    """All that is in nested lists and dictionaries, keys too."""
    if isinstance(value, dict | list):
        children = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        return [leaf for child in children for leaf in leaves(child)]
    return [value]


def select(config: DictConfig, key: str, default: Any = None) -> Any:
    """The value of a dotted key as plain values, references resolved."""
    value = OmegaConf.select(config, key, default=default)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
