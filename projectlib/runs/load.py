"""A run loaded for use, as it was at its last checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor

from projectlib.config.plugins import import_plugins, plugin_folders, require_plugins
from projectlib.config.settings import refuse_resolvers, select
from projectlib.config.validation import validate
from projectlib.ensemble import Ensemble
from projectlib.errors import UserError
from projectlib.models import Network
from projectlib.models.make import make_model
from projectlib.runs.checkpoint import layout_difference, newest_checkpoint
from projectlib.runs.folder import METRICS, checkpoint_folder, read_config
from projectlib.runs.history import History
from projectlib.training.allocation import within_memory


@dataclass(frozen=True, repr=False, eq=False)
class TrainedRun:
    """folder: of the run.  config: its settings.  ensemble: its models.

    input_shape, num_classes: of the data it was trained on; () and 0 for a reservoir.
    """

    folder: Path
    config: DictConfig
    ensemble: Ensemble
    input_shape: tuple[int, ...]
    num_classes: int

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """metrics.csv: one row per epoch, split and model.  Raises UserError where it cannot be read."""
        return History.read(self.folder / METRICS).frame

    def predict(self, x: Any) -> Tensor:
        """Logits (num_models, N, num_classes) of inputs x (N, ...), preprocessed as in training.

        x: a tensor or an array of any float type, on any device.  Raises UserError for another shape.
        """
        if not isinstance(self.ensemble.network, Network):
            raise UserError("a reservoir has no logits; step it with ensemble.network.step")
        parameter = next(iter(self.ensemble.parameters[-1].values()))
        x = torch.as_tensor(x).to(parameter)
        if x.shape[1:] != self.input_shape:
            expected = ", ".join(map(str, ("N", *self.input_shape)))
            raise UserError(f"x has shape {tuple(x.shape)}; expected ({expected}), N samples as in training")
        return self.ensemble.predict(x)

    def __repr__(self) -> str:
        state = f"{self.ensemble.num_models} models of {self.config.model._target_.split('.')[-1]}"
        return f"TrainedRun({str(self.folder)!r}, {state}, inputs {self.input_shape}, {self.num_classes} classes)"


def load(
    run_folder: str | Path,
    device: torch.device | str = "cpu",
    plugins: Sequence[str] = (),
    config_dir: str | Path | None = None,
) -> TrainedRun:
    """The models of a run as they were at its last checkpoint.

    plugins: modules of one's own that the run needs, if they were not named in this process before; they are looked
    for in the current folder and, as in training, beside ``config_dir``.
    For a reservoir, ``ensemble.network`` is a ``Reservoir`` to be stepped with ``ensemble.member(index)[0]``.
    Raises UserError for a folder that is no run or has no checkpoint that can be read.
    """
    folder = Path(run_folder)
    config = read_config(folder)
    refuse_resolvers(config, f"{folder}/.hydra/config.yaml")
    validate(config)
    import_plugins(plugins, plugin_folders(config_dir))
    require_plugins(select(config, "plugins", []), str(folder))
    checkpoints = checkpoint_folder(folder, config.checkpointing.path)
    saved = newest_checkpoint(checkpoints, device)
    if saved is None:
        raise UserError(f"{folder} has no checkpoint in {checkpoints}; expected a run that was trained")
    sizes = saved["sizes"]
    make = within_memory(lambda generator: make_model(config, sizes, generator), 1, torch.device(device), copies=1)
    network = make(torch.Generator()).to(device)
    parameters = saved["engine"].get("parameters")
    expected = [
        {name: p.expand(config.nmodels, *p.shape) for name, p in layer.items()} for layer in network.split_parameters()
    ]
    if difference := layout_difference(parameters, expected, "parameters"):
        raise UserError(f"the checkpoint in {folder} is of another model: {difference}")
    ensemble = Ensemble(network, parameters, range(config.seed, config.seed + config.nmodels))
    return TrainedRun(folder, config, ensemble, tuple(sizes.get("input_shape", ())), sizes.get("num_classes", 0))
