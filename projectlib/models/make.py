"""From a config to one model."""

from typing import Any

import torch
from omegaconf import DictConfig

from projectlib.config.plugins import build
from projectlib.errors import UserError
from projectlib.models.network import Network
from projectlib.models.reservoir import Reservoir

OF_TASK = {"network": (Network, "mlp"), "reservoir": (Reservoir, "reservoir")}
"""What a task trains, and a choice that suits it."""


def make_model(config: DictConfig, sizes: dict[str, Any], generator: torch.Generator) -> Any:
    """One model of a config.  generator: draws its weights.  Raises UserError for a model of another task.

    sizes: of its inputs and outputs, e.g. input_shape and num_classes.
    """
    kind, example = OF_TASK[config.task]
    model = build(config.model, **sizes, generator=generator)
    if not isinstance(model, kind):
        raise UserError(f"model is {config.model._target_}; expected a model for this script, e.g. model={example}")
    return model
