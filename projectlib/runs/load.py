"""A finished run, loaded for use."""

from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from projectlib.ensemble import Ensemble
from projectlib.errors import UserError
from projectlib.models import Network
from projectlib.runs.checkpoint import layout_difference, newest_checkpoint
from projectlib.runs.folder import checkpoint_folder, read_yaml
from projectlib.training.tasks import make_model


class TrainedRun(NamedTuple):
    """config: the run's settings.  ensemble: its models.  input_shape, num_classes: of the data it was trained on."""

    config: DictConfig
    ensemble: Ensemble
    input_shape: tuple[int, ...]
    num_classes: int

    def predict(self, x: Tensor) -> Tensor:
        """Logits (num_models, N, num_classes) of inputs x (N, ...), preprocessed as in training."""
        if not isinstance(self.ensemble.network, Network):
            raise UserError("a reservoir has no logits; step it with ensemble.network.step")
        return self.ensemble.predict(x)


def load(run_folder: str | Path, device: torch.device | str = "cpu") -> TrainedRun:
    """The models of a run as they were at its last checkpoint.

    For a reservoir, ``ensemble.network`` is a ``Reservoir`` to be stepped with ``ensemble.member(index)[0]``.
    Raises UserError for a folder that is no run or has no checkpoint that can be read.
    """
    folder = Path(run_folder)
    config = read_yaml(folder, "config.yaml")
    checkpoints = checkpoint_folder(folder, config.checkpointing.path)
    saved = newest_checkpoint(checkpoints, device)
    if saved is None:
        raise UserError(f"{folder} has no checkpoint in {checkpoints}; expected a run that was trained")
    sizes = saved["sizes"]
    network = make_model(config, sizes, torch.Generator()).to(device)
    parameters = saved["engine"].get("parameters")
    expected = [
        {name: p.expand(config.nmodels, *p.shape) for name, p in layer.items()} for layer in network.split_parameters()
    ]
    if difference := layout_difference(parameters, expected, "parameters"):
        raise UserError(f"the checkpoint in {folder} is of another model: {difference}")
    ensemble = Ensemble(network, parameters)
    return TrainedRun(config, ensemble, tuple(sizes.get("input_shape", ())), sizes.get("num_classes", 0))
