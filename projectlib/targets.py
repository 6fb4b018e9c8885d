"""The names that a config may build: nothing else is imported or called because a file says so."""

from collections.abc import Callable, Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from projectlib.errors import UserError

TARGETS = {
    *(f"projectlib.data.{name}" for name in ("cifar10", "digits", "fashion_mnist", "folder", "linear", "mnist", "xor")),
    *(f"projectlib.models.{name}" for name in ("Reservoir", "cnn", "lif_mlp", "linear", "mlp")),
    *(f"projectlib.rules.{name}" for name in ("HSIC", "Backprop", "BioHSIC", "Delta", "Frozen")),
    *(f"projectlib.loggers.{name}" for name in ("PrintLogger", "TensorBoardLogger", "WandbLogger")),
    *(f"torch.optim.{name}" for name in ("SGD", "Adam", "AdamW")),
    *(
        f"torch.optim.lr_scheduler.{name}"
        for name in ("ConstantLR", "CosineAnnealingLR", "ExponentialLR", "MultiStepLR")
    ),
}


def register(target: Callable) -> Callable:
    """Decorate a class or function of your own so that a config's ``_target_`` may name it."""
    TARGETS.add(f"{target.__module__}.{target.__qualname__}")
    return target


def build(node: DictConfig, **arguments: Any) -> Any:
    """What ``node._target_`` names, called with the node's other keys and with ``arguments``.

    Raises UserError for a name, nested ones included, that is not registered, and for arguments it refuses.
    """
    for target in named_targets(node):
        if target not in TARGETS:
            raise UserError(
                f"_target_ is {target!r}; expected a registered name: decorate a class of your own with "
                "projectlib.targets.register"
            )
    resolved = OmegaConf.create(OmegaConf.to_container(node, resolve=True))
    try:
        return instantiate(resolved, _partial_=True, _convert_="all")(**arguments)
    except (InstantiationException, TypeError, ValueError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"{node._target_} cannot be built: {reason}; look at the keys of its config") from error


def named_targets(node: Any) -> Iterator[str]:
    """Every ``_target_`` in a config node, at any depth."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield str(node["_target_"])
        children = [node[key] for key in node]
    elif isinstance(node, ListConfig):
        children = list(node)
    else:
        return
    for child in children:
        yield from named_targets(child)
