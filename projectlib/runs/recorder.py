"""The run folder while a run goes on: metrics, traces, checkpoints, progress and the summary."""

import logging
import platform
import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from projectlib.errors import Interrupted, Pruned, UserError
from projectlib.runs.checkpoint import save_checkpoint
from projectlib.runs.files import write_whole
from projectlib.runs.folder import METRICS, write_summary
from projectlib.runs.history import History, format_mean, mean_and_sd

if TYPE_CHECKING:
    from projectlib.cli.interrupts import Interrupts

LOG_EVERY = 60  # seconds between two lines of progress in a log

log = logging.getLogger(__name__)


class Recorder:
    """Everything that ``fit`` writes.  A context: when it is left, summary.json says how the run ended.

    folder: the run folder.  config: the run's settings as plain values.  checkpoints: their folder.
    interrupts: asked after every chunk of steps.  checkpoint: what a resumed run begins with.
    Raises UserError where metrics.csv is not what that recorded.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        checkpoints: Path,
        interrupts: "Interrupts",
        checkpoint: dict[str, Any] | None = None,
    ):
        self.folder, self.config, self.loggers = Path(folder), config, []
        self.checkpoints, self.interrupts = Path(checkpoints), interrupts
        self.rate, self.minutes = config["checkpointing"]["rate"], config["checkpointing"].get("minutes")
        self.history, self.arrays = History(), {}
        self.seconds = {"training": 0.0, "compile": 0.0, "wall": 0.0}  # of training: evaluation left out
        self.steps = 0
        self.started = self.saved_at = time.monotonic()
        self.num_epochs, self.progress, self.exit_stack = 0, None, ExitStack()  # closed when the run ends
        self.total = self.first = self.done = 0  # steps: of the run, before this process, until now
        self.began = self.logged = 0.0  # times: of this process's first step, of the last progress line
        self.numbers_kept, self.metadata = None, {}
        self.code = commit()  # as it is now: a checkout may move on while a run goes on
        if checkpoint:
            self.restore(checkpoint)

    def restore(self, checkpoint: dict) -> None:
        """Resume the history of a checkpoint."""
        self.history, self.arrays = History(checkpoint["history"]), checkpoint["arrays"]
        self.seconds, self.steps = checkpoint["seconds"], checkpoint["steps"]
        path = self.folder / METRICS
        # a killed run may have recorded more than its last checkpoint knows: these epochs will be trained again
        if path.exists() and History.read(path).rows[: len(self.history.rows)] != self.history.rows:
            raise UserError(
                f"{path} is not what the run recorded until its checkpoint of epoch {checkpoint['epoch']}: it was "
                "changed since; put it back, or delete it to have it written again"
            )

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        stopped = isinstance(error, Interrupted | SystemExit)  # a second signal exits at once
        status = "interrupted" if stopped else "pruned" if isinstance(error, Pruned) else "failed"
        reason = None if stopped else str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if error is None:
            status, reason = "finished", None
        for logger in self.loggers:
            logger.status = status
        with nullcontext() if error is None else suppress(OSError):  # a full disk, perhaps, is what has to be told
            try:
                self.exit_stack.close()  # loggers, which may fail
            finally:
                measured = {"metrics": self.history.summary(), "best": self.history.best()}
                self.write_summary(status, reason, trained=self.progress is not None, measured=measured)

    def attach(self, loggers: list, numbers_kept: int, **metadata: Any) -> None:
        """loggers: where metrics go beside the files.  numbers_kept: of ``Task``.  metadata: what checkpoints say."""
        self.loggers, self.numbers_kept, self.metadata = loggers, numbers_kept, metadata
        for logger in loggers:
            self.exit_stack.callback(logger.close)

    def reopen(self) -> None:
        """A run that goes on is neither finished nor skipped any more, also to those who read its folder after a kill:
        what it has reached is in metrics.csv.
        """
        self.write_summary("interrupted", None, trained=True, measured={})

    def begin(self, num_epochs: int, total: int, done: int) -> None:
        """Show progress in steps: a bar, or a line per minute where the output is not a terminal."""
        self.num_epochs, self.total, self.first, self.done = num_epochs, total, done, done
        self.began = self.logged = time.monotonic()
        bar = tqdm(total=total, initial=done, unit="step", disable=None, dynamic_ncols=True)
        self.progress = self.exit_stack.enter_context(bar)
        if not self.progress.disable:
            self.progress.set_postfix_str(self.reached())
            printed_by = logging.root if logging.root.handlers else logging.getLogger("projectlib")
            self.exit_stack.enter_context(logging_redirect_tqdm([printed_by]))
        self.history.write(self.folder / METRICS)

    def step(self, global_step: int, metrics: dict[str, Tensor]) -> None:
        for logger in self.loggers:
            logger.step(global_step, {name: values.mean().item() for name, values in metrics.items()})

    def end_epoch(
        self, epoch: int, results: dict[str, dict[str, Tensor]], arrays: dict[str, dict[str, Tensor]]
    ) -> None:
        """Record an epoch, on disk before it returns.

        results: ``{split: {name: (num_models,)}}``.  arrays: ``{file: {name: array}}``; ``<file>.npz`` stacks the
        arrays of a name over the epochs that have it.
        """
        for split, metrics in results.items():
            self.history.add(epoch, split, metrics)
        self.history.write(self.folder / METRICS)
        for file, named in arrays.items():
            if named:
                self.add_arrays(file, named)
        log.info("epoch %d  %s", epoch, "  ".join(describe(split, m) for split, m in results.items()))
        told = {}
        for key, values in ((f"{s}/{name}", v) for s, metrics in results.items() for name, v in metrics.items()):
            told[key] = values.mean().item()
            if len(values) > 1:
                told[f"{key}_sd"] = values.std().item()
        for logger in self.loggers:
            logger.epoch(epoch, told)
        if self.progress is not None and not self.progress.disable:
            self.progress.set_postfix_str(self.reached())

    def reached(self) -> str:
        """How far the models are, e.g. ``after epoch 3 of 25, test accuracy 92.10 ± 0.30 %``."""
        epoch = self.history.last_epoch
        accuracy = self.history.values(epoch, "test", "accuracy")
        shown = f", test accuracy {format_mean(*mean_and_sd(accuracy), 100, ' %')}" if accuracy else ""
        return f"after epoch {epoch} of {self.num_epochs}{shown}"

    def add_arrays(self, file: str, named: dict[str, Tensor]) -> None:
        stacks = self.arrays.setdefault(file, {})
        for name, array in named.items():
            stacks.setdefault(name, []).append(array.cpu())
        stacked: Any = {name: torch.stack(stack).numpy() for name, stack in stacks.items()}
        write_whole(self.folder / f"{file}.npz", lambda target: np.savez(target, allow_pickle=False, **stacked))

    def after_chunk(self, num_steps: int) -> bool:
        """Advance the progress bar, or log a line per minute; True where a checkpoint is due at once."""
        self.done, now = self.done + num_steps, time.monotonic()
        if self.progress is not None:
            self.progress.update(num_steps)
            if self.progress.disable and now - self.logged > LOG_EVERY:
                self.logged = now
                left = tqdm.format_interval((now - self.began) / (self.done - self.first) * (self.total - self.done))
                log.info("%s, %.0f %% of the steps done, %s left", self.reached(), 100 * self.done / self.total, left)
        due = self.minutes is not None and now - self.saved_at > 60 * self.minutes
        return due or self.interrupts.requested

    def checkpoint_due(self, epoch: int) -> bool:
        """Whether the end of this epoch is checkpointed."""
        return epoch % self.rate == 0 or epoch == self.num_epochs or self.interrupts.requested

    def save(self, snapshot: dict) -> None:
        """Write a checkpoint; raises Interrupted afterwards where a signal asked for it."""
        content = {
            **snapshot,
            **self.metadata,
            "config": self.config,
            "history": self.history.rows,
            "arrays": self.arrays,
            "seconds": {**self.seconds, "wall": self.wall_seconds()},
            "steps": self.steps,
            "threads": torch.get_num_threads(),
        }
        save_checkpoint(self.checkpoints, content)
        self.saved_at = time.monotonic()
        self.interrupts.raise_if_requested()

    def wall_seconds(self) -> float:
        """Since the run began, in all of its processes."""
        return self.seconds["wall"] + time.monotonic() - self.started

    def write_summary(self, status: str, error: str | None, trained: bool, measured: dict[str, Any]) -> None:
        training = self.seconds["training"]
        versions = {"python": sys.version.split()[0], "torch": torch.__version__, "platform": platform.platform()}
        summary = {
            "status": status,
            **({"error": error} if error else {}),
            **measured,
            "steps_per_second": self.steps / training if training else None,
            "compile_seconds": self.seconds["compile"],
            "wall_seconds": self.wall_seconds(),
            "numbers_kept": self.numbers_kept,
            "device": self.metadata.get("device", self.config["device"]),
            "versions": versions,
            "seed": self.config["seed"],
            "nmodels": self.config["nmodels"],
            **self.code,
        }
        write_summary(self.folder, summary, trained)


def describe(split: str, metrics: dict[str, Tensor]) -> str:
    """One split of the line an epoch prints: what fits into it, as mean ± sd over models."""
    percent = {"accuracy", "nmse_after", "nmse_before"}
    shown = [name for name in metrics if name == "loss" or name in percent or name.startswith("cosine")]
    units = {name: (100.0, " %") if name in percent else (1.0, "") for name in shown}
    values = (f"{name} {format_mean(*mean_and_sd(metrics[name]), *unit)}" for name, unit in units.items())
    return f"{split}: {', '.join(values)}"


def commit() -> dict[str, str]:
    """The commit of the code that runs, where that is a git checkout, and not installed within another."""
    root = Path(__file__).resolve().parents[2]
    try:
        command = ["git", "rev-parse", "--show-toplevel", "HEAD"]
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=True)
        top, head = found.stdout.splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
    return {"commit": head} if Path(top).resolve() == root else {}
