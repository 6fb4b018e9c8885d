"""The code that a config may name: what the project has, and modules of the user's own (plugins).

A config file alone runs nothing.  A plugin is a module that the user named on the command line
(``plugins=[my_rules]``), in ``projectlib.train`` or ``projectlib.load``, or installed under the entry point
``biohsic.plugins``; what a config file says under ``plugins`` is never imported.
"""

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from projectlib.errors import UserError, one_line

LOGGERS = "projectlib.runs.loggers"
TARGETS = {
    f"{module}.{name}"
    for module, names in {
        "projectlib.data": "cifar10 digits fashion_mnist folder linear mnist mnist_5000 xor",
        "projectlib.models": "Reservoir cnn divisive_mlp lif_mlp linear mlp spiking_mlp",
        "projectlib.rules": "HSIC Backprop BioHSIC Delta DirectFeedbackAlignment FeedbackAlignment Frozen "
        "LocalClassifier PHSIC SimilarityMatching",
        "projectlib.modulators": "ClassMeansModulator CovarianceModulator DeltaModulator RememberedModulator "
        "ReservoirModulator WindowModulator",
        LOGGERS: "PrintLogger TensorBoardLogger WandbLogger",
        "projectlib.training.schedules": "SmoothCosine",
        "torch.optim": "SGD Adam AdamW",
        "torch.optim.lr_scheduler": "ConstantLR CosineAnnealingLR ExponentialLR MultiStepLR",
    }.items()
    for name in names.split()
}
"""What the project has: all that a config may name without a plugin."""

PLUGINS: set[str] = set()
"""The modules that this process imported as plugins."""

ADVICE = "a name of the project, or of a plugin: name its module in plugins=[...] if it is code that you trust"


def plugin_folders(config_dir: str | Path | None) -> tuple[str, ...]:
    """Where plugins are looked for: in the current folder, and beside a folder of configs."""
    return (str(Path.cwd()), *([str(Path(config_dir).resolve().parent)] if config_dir else []))


def import_plugins(names: Iterable[str], folders: Sequence[str | Path] = ()) -> None:
    """Import modules that a config may then name, for as long as the process lives.

    folders: where they are looked for, after all that can be imported anyway.  Raises UserError, with the reason,
    for one that cannot be imported.
    """
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]
    importlib.invalidate_caches()
    for name in names:
        try:
            importlib.import_module(name)
            PLUGINS.add(name)
        except Exception as error:  # a module may raise anything
            reason = f"{type(error).__name__}: {one_line(error)}"
            if not isinstance(error, ModuleNotFoundError) or error.name != name.split(".")[0]:
                last = traceback.extract_tb(error.__traceback__)[-1]
                reason += f", in {last.filename} line {last.lineno}"
            places = f"; looked in {', '.join(map(str, folders))} and what is installed" if folders else ""
            raise UserError(f"plugin {name!r} cannot be imported ({reason}){places}") from None


@cache
def installed_plugins() -> set[str]:
    """The modules of the entry points ``biohsic.plugins``, imported the first time that a plugin is looked for."""
    from importlib.metadata import entry_points  # its import takes a twentieth of the time of --help

    import_plugins(names := {point.module for point in entry_points(group="biohsic.plugins")})
    return names


def require_plugins(names: Sequence[str], origin: str) -> None:
    """Raises UserError where ``origin`` was made with plugins that the user did not name here."""
    if missing := [name for name in names if name not in PLUGINS | installed_plugins()]:
        listed = f"plugins=[{','.join(names)}]"
        raise UserError(
            f"{origin} was run with {listed}, which are code, and {missing[0]!r} is not imported here: "
            f"add {listed} if you trust them"
        )


def find_in_plugins(name: str) -> Callable | None:
    """What a dotted name means, if it is public, callable, and was defined in a plugin or below one."""
    parts = name.split(".")
    if any(part.startswith("_") or not part.isidentifier() for part in parts):
        return None
    for plugin in PLUGINS | installed_plugins():
        if name.startswith(f"{plugin}."):
            with suppress(ImportError, AttributeError):
                found = pkgutil.resolve_name(name)
                home = getattr(found, "__module__", None) or ""
                if callable(found) and f"{home}.".startswith(f"{plugin}."):
                    return found
    return None


def build(node: DictConfig, **arguments: Any) -> Any:
    """What ``node._target_`` names, called with the node's other keys and with ``arguments``.

    Raises UserError for a name, nested ones included, that no config may name, and for arguments it refuses.
    """
    return construct(OmegaConf.to_container(node, resolve=True), arguments)  # nothing in it resolves again


def construct(value: Any, arguments: dict[str, Any] | None = None) -> Any:
    """Call the targets of plain values, inner ones first; ``arguments`` go to the outermost."""
    if isinstance(value, list):
        return [construct(item) for item in value]
    if not isinstance(value, dict):
        return value
    children = {key: construct(child) for key, child in value.items() if key != "_target_"}
    if "_target_" not in value:
        return children
    name = str(value["_target_"])
    target: Any = get_object(name) if name in TARGETS else find_in_plugins(name)
    if target is None:
        raise UserError(f"_target_ is {name!r}; expected a name that a config may build: {ADVICE}")
    if name.startswith(LOGGERS) and "settings" not in (arguments or {}):
        raise UserError(f"_target_ is {name!r}; expected a logger under logger= alone: it writes where it is told to")
    try:
        return target(**children, **(arguments or {}))
    except (TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} cannot be built: {reason}; look at the keys of its config") from error
