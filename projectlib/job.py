"""One job: train in a run folder, or score a finished one."""

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from projectlib.checkpoint import checkpoint_files, load_checkpoint
from projectlib.errors import UserError
from projectlib.files import FolderLock
from projectlib.interrupts import Interrupted, Interrupts
from projectlib.loading import load
from projectlib.metrics import format_mean
from projectlib.recorder import Recorder
from projectlib.resume import resumed_config
from projectlib.targets import build
from projectlib.tasks import build_task, load_dataset
from projectlib.training import evaluate, fit

log = logging.getLogger(__name__)


def train(config: DictConfig, folder: Path) -> float | None:
    """Train what ``config`` says in ``folder``, from the start or from its last good checkpoint.

    Returns the test accuracy of the last epoch, mean over models; None where there is none.
    """
    lock = FolderLock(folder)
    recorder, status, failure, device = None, "failed", None, None
    try:
        with Interrupts() as interrupts:
            config = resumed_config(config, folder) if config.resume else config
            device = resolve_device(config.device)
            torch.set_flush_denormal(True)  # moments of silent neurons decay into numbers that a CPU is slow at
            plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)
            checkpoints = folder / config.checkpointing.path
            checkpoint = newest_good_checkpoint(checkpoints, device) if config.resume else None
            recorder = Recorder(
                folder,
                plain,
                checkpoints=checkpoints,
                rate=config.checkpointing.rate,
                minutes=config.checkpointing.minutes,
                interrupts=interrupts,
            )
            if checkpoint:
                recorder.restore(checkpoint)
                torch.set_num_threads(checkpoint["threads"])
            task = build_task(config, device, checkpoint["engine_name"] if checkpoint else config.engine)
            logger = build(config.logger, folder=str(folder), settings=plain)
            recorder.attach([logger], sizes=task.sizes, engine_name=task.engine.name)
            log.info("run folder %s, engine %s, device %s", folder, task.engine.name, device)
            fit(
                task.engine,
                task.evaluate,
                task.schedule,
                torch.Generator().manual_seed(config.data.seed),
                recorder,
                config.training.nepochs,
                config.training.log_interval,
                task.probe,
                checkpoint,
            )
        status = "finished"
    except Interrupted:
        status = "interrupted"
        raise
    except OSError as error:
        failure = f"{error.filename or folder}: {error.strerror or error}"
        raise UserError(f"cannot write {failure}; the last good checkpoint is in {folder}") from error
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else str(error)
        raise
    finally:
        if recorder:
            recorder.close(status, failure, str(device))
        lock.release()
    return conclude(recorder, folder)


def conclude(recorder: Recorder, folder: Path) -> float | None:
    """Draw the learning curve, print what a run ends with, and return its objective."""
    from projectlib.plotting import save_run_figure

    figure = save_run_figure(folder)
    accuracy = recorder.history.values(recorder.history.last_epoch, "test", "accuracy")
    if accuracy:
        log.info("test accuracy %s over %d models", format_mean(accuracy, 100, " %"), len(accuracy))
    log.info("run folder %s (%s)", folder, figure.relative_to(folder))
    return sum(accuracy) / len(accuracy) if accuracy else None


def newest_good_checkpoint(folder: Path, device: torch.device) -> dict | None:
    """The newest checkpoint that can be read, with a warning for each that cannot; None where there is none."""
    for path in reversed(checkpoint_files(folder)):
        try:
            return load_checkpoint(path, device)
        except UserError as error:
            log.warning("%s: falling back to the one before", error)
    return None


def evaluate_run(config: DictConfig) -> float:
    """Score a finished run on the data of ``config``; prints and returns the mean accuracy."""
    device = resolve_device(config.device)
    trained = load(config.evaluate, device)
    dataset = load_dataset(config).to(device)
    found, expected = (dataset.input_shape, dataset.num_classes), (trained.input_shape, trained.num_classes)
    if found != expected:
        raise UserError(
            f"data {config.data.name} has samples {found[0]} of {found[1]} classes; expected {expected[0]} of "
            f"{expected[1]}, as {config.evaluate} was trained on"
        )
    for name, split in dataset.splits.items():
        scores = evaluate(trained.ensemble, split, config.data.test_batchsize)
        accuracy = format_mean(scores["accuracy"], 100, " %")
        log.info("%s of %s: loss %s, accuracy %s", name, config.data.name, format_mean(scores["loss"]), accuracy)
    return scores["accuracy"].mean().item()


def resolve_device(name: str) -> torch.device:
    """``auto`` is a GPU where there is one.  Raises UserError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device is {name!r}, which is not there ({reason}); use device=auto or device=cpu") from None
    return device
