"""Where metrics go while a run goes on, beside its own files: the log, TensorBoard or Weights & Biases."""

import logging
import secrets
from pathlib import Path
from typing import Any

from projectlib.errors import UserError, not_installed

log = logging.getLogger(__name__)


class Logger:
    """Receives a run's metrics from the recorder; methods that a subclass does not define do nothing.

    status: how the run ended, as in ``summary.json``, once it has.
    """

    status = ""

    def step(self, global_step: int, metrics: dict[str, float]) -> None:
        """After ``global_step`` steps of training: the running means of the epoch so far, and over models."""

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """At an epoch's end, named ``split/name``: means over models, and of several ``split/name_sd``."""

    def close(self) -> None:
        """The run has ended."""


class PrintLogger(Logger):
    """Writes step metrics to the log; epoch metrics are logged by every run."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        """folder: the run folder.  settings: the whole config as plain values."""

    def step(self, global_step: int, metrics: dict[str, float]) -> None:
        log.info("step %d  %s", global_step, "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


class TensorBoardLogger(Logger):
    """Scalars in the run folder's ``tensorboard/``."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(not_installed("logger=tensorboard", "tensorboard")) from None
        self.writer = SummaryWriter(str(Path(folder) / "tensorboard"))

    def step(self, global_step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(f"step/{name}", value, global_step)

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        self.writer.close()


class WandbLogger(Logger):
    """A run of Weights & Biases; ``WANDB_MODE=offline`` keeps it in the run folder's ``wandb/``.

    project: the project's name there.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], project: str):
        try:
            import wandb
        except ImportError:
            raise UserError(not_installed("logger=wandb", "wandb")) from None
        name = "/".join(Path(folder).absolute().parts[-3:])
        # a resumed run goes on as itself: (offline-)run-<time>-<id>
        before = sorted(Path(folder).glob("wandb/*run-*-*"))
        identity = before[-1].name.removeprefix("offline-").split("-", 2)[2] if before else secrets.token_hex(8)
        try:
            self.run = wandb.init(
                project=project, dir=str(folder), id=identity, name=name, resume="allow", config=settings
            )
        except wandb.Error as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"logger=wandb could not start ({reason}); log in, set WANDB_MODE=offline, or use logger=print"
            ) from None
        self.run.define_metric("*", step_metric="epoch")
        self.run.define_metric("step/*", step_metric="global_step")

    def step(self, global_step: int, metrics: dict[str, float]) -> None:
        self.run.log({"global_step": global_step} | {f"step/{name}": value for name, value in metrics.items()})

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        self.run.log({"epoch": epoch} | metrics)

    def close(self) -> None:
        self.run.finish(exit_code=0 if self.status in ("finished", "pruned") else 1)
