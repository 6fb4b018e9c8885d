"""One job: train in a run folder, or score a finished one."""

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from projectlib.cli.interrupts import Interrupts
from projectlib.config.plugins import build
from projectlib.config.settings import plain
from projectlib.data.scaling import scaled_alike
from projectlib.errors import UserError, system_problem
from projectlib.garbage import paused_collector
from projectlib.runs.checkpoint import checkpoint_files, newest_checkpoint, restored_threads
from projectlib.runs.files import locked, remove_partial_files
from projectlib.runs.folder import HYDRA_FOLDER, SUMMARY, checkpoint_folder, is_finished, write_settings, write_summary
from projectlib.runs.history import History, format_mean, row_split
from projectlib.runs.load import load
from projectlib.runs.loggers import Logger
from projectlib.runs.recorder import Recorder, describe
from projectlib.runs.resume import differences
from projectlib.sweeps.jobs import objective
from projectlib.sweeps.launchers import job_device
from projectlib.training.loop import evaluate, fit
from projectlib.training.tasks import build_task, load_dataset

log = logging.getLogger(__name__)


def train(config: DictConfig, folder: Path, job_number: int = 0, loggers: Sequence[Logger] = ()) -> float | None:
    """Train what ``config`` says in ``folder``, from the start or from its last good checkpoint.

    job_number: of a sweep, whose jobs share the GPUs.  loggers: beside the config's own.
    Returns ``config.objective`` of the last epoch, mean over models; None where it was not measured.
    """
    checkpoints = checkpoint_folder(folder, config.checkpointing.path)
    with written_alone(folder, checkpoints), Interrupts() as interrupts, flushed_subnormals():
        settings = plain(config, resolve=True)
        remove_partial_files(folder, folder / HYDRA_FOLDER, checkpoints)
        checkpoint = checkpoint_of_run(folder, checkpoints, settings) if config.resume else None
        if not config.resume and checkpoint_files(checkpoints):
            raise UserError(
                f"{checkpoints} holds the checkpoints of a run; expected none before a new one: resume it with "
                f"resume={folder}, or choose another hydra.run.dir or checkpointing.path"
            )
        if not config.resume and is_finished(folder):
            raise UserError(
                f"{folder} holds a finished run without its checkpoints; expected another hydra.run.dir for a new run"
            )
        recorder = Recorder(folder, settings, checkpoints, interrupts, checkpoint)
        device = resolve_device(config.device, job_number)
        engine = checkpoint["engine_name"] if checkpoint and checkpoint["device"] == device.type else config.engine
        if device.type == "cuda":  # graphs of an earlier job hold its data until they are collected
            gc.collect()
            torch.cuda.empty_cache()
        with paused_collector():  # torch imports a compiler for its optimizers
            task = build_task(config, device, engine)
        if checkpoint:
            torch.set_num_threads(restored_threads(checkpoint))
        logger = build(config.logger, folder=str(folder), settings=settings)
        recorder.attach([logger, *loggers], task.numbers_kept, sizes=task.sizes, device=device.type)
        if (folder / SUMMARY).exists():
            recorder.reopen()
        # the settings that the folder has from now on: it may have been resumed, or begun again, with others
        write_settings(folder, config=OmegaConf.merge(config, {"resume": None}))
        log.info("run folder %s, engine %s, device %s", folder, task.engine.name, device)
        with recorder:
            generator = torch.Generator().manual_seed(config.data.seed)
            fit(task, generator, recorder, config.training.nepochs, config.training.log_interval, checkpoint)
            value = conclude(recorder, folder)
        interrupts.raise_if_requested()  # it came too late for a checkpoint, but not for what would follow
        return value


@contextmanager
def written_alone(folder: Path, checkpoints: Path) -> Iterator[None]:
    """Folders of a run that no other process writes; raises UserError for what the system refuses."""
    try:
        with locked(folder):
            checkpoints.mkdir(parents=True, exist_ok=True)
            elsewhere = not checkpoints.is_relative_to(folder)  # where the run folder's own lock does not cover it
            with locked(checkpoints) if elsewhere else nullcontext():
                yield
    except OSError as error:
        reason, place = system_problem(error, folder), Path(error.filename or folder)
        if place.is_relative_to(folder) or place.is_relative_to(checkpoints) or checkpoints.is_relative_to(place):
            reason = f"cannot write {reason}, or choose another checkpointing.path"
        raise UserError(f"{reason}; then go on from the last checkpoint with resume={folder}") from error


@contextmanager
def flushed_subnormals() -> Iterator[None]:
    """Subnormal numbers count as zero: the moments of silent neurons decay into them, and a CPU is slow at them.

    The setting is the thread's, and of threads that it starts; whoever called gets it back as it is by default.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def checkpoint_of_run(folder: Path, checkpoints: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The last good checkpoint of the run in ``folder``; None where there is none, and it starts over.

    Raises UserError for a checkpoint that is not of this run, or that is beyond the end of what is asked for.
    """
    checkpoint = newest_checkpoint(checkpoints)
    if checkpoint is None:
        log.warning("no complete checkpoint in %s: starting over in place", checkpoints)
        return None
    if differing := differences(config, checkpoint["config"], folder):
        raise UserError(
            f"the newest checkpoint in {checkpoints} is of a run with other settings: {', '.join(differing)}; "
            f"expected those of {folder}/.hydra/config.yaml: put back what was changed"
        )
    if (asked := config["training"]["nepochs"]) < checkpoint["epoch"]:
        raise UserError(
            f"training.nepochs is {asked}; expected at least {checkpoint['epoch']}, the epoch that {folder} has reached"
        )
    return checkpoint


def conclude(recorder: Recorder, folder: Path) -> float | None:
    """Draw the learning curve, print what a run ends with, and return its objective."""
    with paused_collector():
        from projectlib.plotting import save_run_figure

    figure = save_run_figure(folder)
    reached: Any = recorder.history.summary()
    if accuracy := reached.get("test", {}).get("accuracy"):
        values = format_mean(accuracy["mean"], accuracy["sd"], 100, " %")
        log.info("test accuracy %s over %d models", values, recorder.config["nmodels"])
    log.info("run folder %s (%s)", folder, figure.relative_to(folder))
    return objective(reached, recorder.config["objective"])


def evaluate_run(config: DictConfig, folder: Path) -> float:
    """Score a finished run on the data of ``config``; prints and returns the mean accuracy on its test samples.

    Inputs are scaled as those were that the run was trained on.  folder: gets a summary.json of status "evaluated",
    with loss and accuracy of every split.
    """
    device = resolve_device(config.device)
    trained = load(config.evaluate, device)
    if not trained.input_shape:
        raise UserError(f"{config.evaluate} trained a reservoir; expected a network to score on {config.data.name}")
    ours, theirs = (plain(settings.data.source, resolve=True) for settings in (config, trained.config))
    scaling = scaled_alike(ours, theirs)
    for key in [key for key, value in scaling.items() if value != ours[key]]:
        log.info("data.%s=%s, as the run was trained with", key, scaling[key])
    dataset = load_dataset(cast(DictConfig, OmegaConf.merge(config, {"data": {"source": scaling}}))).to(device)
    found, expected = (dataset.input_shape, dataset.num_classes), (trained.input_shape, trained.num_classes)
    if found != expected:
        raise UserError(
            f"data {config.data.name} has samples {found[0]} of {found[1]} classes; expected {expected[0]} of "
            f"{expected[1]}, as {config.evaluate} was trained on"
        )
    history = History()
    for name, split in dataset.splits.items():
        scores, row = evaluate(trained.ensemble, split, config.data.test_batchsize), row_split(name)
        history.add(0, row, scores)
        log.info("%s", describe(f"{row} of {config.data.name}", scores))
    summary = {"status": "evaluated", "evaluated": str(Path(config.evaluate).resolve()), "metrics": history.summary()}
    write_summary(folder, summary)
    return scores["accuracy"].mean().item()


def resolve_device(name: str, job_number: int = 0) -> torch.device:
    """``auto`` is a GPU where there is one, the job's own where there are several.

    Raises UserError for a device that is not there.
    """
    if name == "auto":
        return resolve_device(job_device(torch.cuda.device_count(), job_number))
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # float32, as on a CPU
            torch.cuda.set_device(device)  # graphs are captured on the current device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device is {name!r}, which is not there ({reason}); use device=auto or device=cpu") from None
    return device
