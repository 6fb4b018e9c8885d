"""Accuracy and HSIC over epochs, and accuracy against the window size."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from projectlib.errors import UserError
from projectlib.plotting import published
from projectlib.plotting.page import select_run, select_runs
from projectlib.plotting.style import (
    BLACK,
    KINDS,
    PERCENT,
    SEQUENCE,
    Look,
    band,
    conditions,
    kind,
    legend,
    names_and_looks,
    whole_epochs,
    window_ticks,
)
from projectlib.runs.history import TRAIN_SET
from projectlib.runs.run import Folders, Run, all_runs
from projectlib.sweeps.experiments import RESULTS, stood_for, sweeps_of

MAX_EPOCHS = 3  # drawn of a sweep
DASHED = (0, (8, 4))  # of published values


def accuracy(folders: Folders | None, ax: Axes) -> None:
    """Test accuracy over epochs, mean and sd over models, with the published final values as dashed lines."""
    runs = select_runs(folders)
    for run, (name, look) in zip(runs, names_and_looks(runs), strict=True):
        epochs, values = run.curve("test", "accuracy")
        band(ax, epochs, 100 * values, name, look, PERCENT)
    drawn = dict.fromkeys((run.get("data.name"), kind(run)) for run in runs)
    for data, name in (key for key in drawn if key in published.FINAL):
        label = f"published, {KINDS[name].title}: {published.FINAL[data, name]} %"
        color = KINDS[name].look.color
        ax.axhline(published.FINAL[data, name], color=color, linewidth=0.9, linestyle=DASHED, label=label)
    ax.set_title(f"Test accuracy\n{conditions(runs)}")
    ax.set_ylabel("test accuracy (%)")
    leave_out_epoch_0(ax)
    whole_epochs(ax)
    legend(ax)


def leave_out_epoch_0(ax: Axes) -> None:
    """Zoom in past epoch 0, whose accuracy at chance would press the rest into a narrow strip."""
    lines = [line.get_xydata() for line in ax.lines]
    bands = [path.vertices for filled in ax.collections for path in filled.get_paths()]
    points = np.concatenate([np.asarray(xy, float) for xy in (*lines, *bands)])
    learnt = points[points[:, 0] >= 1, 1]
    if len(learnt):
        margin = 0.05 * max(np.ptp(learnt), 2)
        ax.set_ylim(learnt.min() - margin, min(learnt.max() + margin, 101))
        ax.set_xlim(left=0.5)


def learning_curve(folders: Folders | None, ax: Axes) -> None:
    """Accuracy of one run over epochs on each of its splits, mean and sd over models."""
    run = select_run(folders)
    splits = [split for split in run.history.frame["split"].unique() if split not in ("memory", TRAIN_SET)]
    for split, look in zip(splits, SEQUENCE, strict=False):
        epochs, values = run.curve(split, "accuracy")
        band(ax, epochs, 100 * values, split, look, PERCENT)
    ax.set_title(f"Accuracy, {names_and_looks([run])[0][0]}\n{conditions([run])}")
    ax.set_ylabel("accuracy (%)")
    leave_out_epoch_0(ax)
    whole_epochs(ax)
    legend(ax)


def hsic(folders: Folders | None, ax: Axes) -> None:
    """Both parts of every layer's objective over epochs: HSIC with the labels (filled) and the inputs (open)."""
    run = select_run(folders, lambda run: bool(num_measured_layers(run)), "run of windows with training.log_hsic=true")
    num_layers = num_measured_layers(run)
    for layer in range(num_layers):
        name = "readout" if layer == num_layers - 1 else f"layer {layer + 1}"
        look = SEQUENCE[layer % len(SEQUENCE)]
        band(ax, *run.curve("train", f"hsicy_layer{layer}"), f"{name}, labels", look)
        band(ax, *run.curve("train", f"hsicx_layer{layer}"), f"{name}, inputs", look)
        ax.lines[-1].set(markerfacecolor="white", linewidth=0.9)
    ax.set_title(f"HSIC of every layer\n{conditions([run])}")
    ax.set_ylabel("HSIC")
    whole_epochs(ax)
    legend(ax)


def num_measured_layers(run: Run) -> int:
    """The number of layers whose HSIC was logged."""
    return sum(name.startswith("hsic_layer") for name in run.history.frame) if run.has_metrics else 0


def window_size(folders: Folders | None, ax: Axes) -> None:
    """Test (filled) and training accuracy (open) against the window size, at the first, a middle and the last epoch.

    folders: the jobs of a sweep over ``data.batchsize``, or its folder.
    """
    jobs = window_sweep(folders)
    windows = [job.get("data.batchsize") for job in jobs]
    last = min(job.history.last_epoch for job in jobs)
    for epoch, look in zip(evenly_spaced(1, last, MAX_EPOCHS), SEQUENCE, strict=False):
        for split in ("test", "train"):
            accuracy_by_window(ax, jobs, windows, epoch, split, look)
    reference = published.BY_WINDOW.get(jobs[0].get("data.name"))
    if reference:
        ax.plot([*reference], [*reference.values()], color=BLACK, linestyle=DASHED, marker="x", label="published, test")
    ax.set_title(f"Accuracy by window size\n{conditions(jobs)}")
    ax.set_ylabel("accuracy (%)")
    window_ticks(ax, windows)
    legend(ax)


def accuracy_by_window(
    ax: Axes, jobs: Sequence[Run], windows: Sequence[int], epoch: int, split: str, look: Look
) -> None:
    """Mean and sd over the models of each job; markers of the training split are open."""
    values = [100 * np.array(job.history.values(epoch, split, "accuracy")) for job in jobs]
    if not all(map(len, values)):
        raise UserError(f"{jobs[0].folder.parent}: not all jobs have the {split} accuracy of epoch {epoch}")
    means = np.array([v.mean() for v in values])
    sd = np.array([v.std(ddof=1) if len(v) > 1 else 0 for v in values])
    bars = np.array([sd, np.minimum(sd, PERCENT[1] - means)])  # below and above
    label = f"epoch {epoch}, {split}"
    (line, *_) = ax.errorbar(windows, means, bars, **look._asdict(), capsize=2, elinewidth=0.8, label=label)
    if split == "train":
        line.set(markerfacecolor="white", linewidth=0.9)


def window_sweep(folders: Folders | None) -> list[Run]:
    """The runs of a sweep over windows, smallest first.  Raises UserError unless they have a window each."""
    jobs = select_runs(newest_window_sweep() if folders is None else folders)
    by_window = {job.get("data.batchsize"): job for job in jobs}
    if len(by_window) < 2:
        raise UserError(
            f"{jobs[0].folder}: all runs have the window {next(iter(by_window))}; expected a sweep over data.batchsize"
        )
    if len(by_window) < len(jobs):
        raise UserError(
            f"{jobs[0].folder.parent}: several runs have the same window; expected one a window: name the folders of "
            "those to draw"
        )
    return [by_window[window] for window in sorted(by_window)]


def newest_window_sweep() -> Folders:
    """The folders of the newest sweep over windows."""
    jobs = {job: stood_for(job) for job in all_runs(RESULTS) if job.is_sweep_job}
    finished = {j: run for j, run in jobs.items() if run and run.is_finished and run.choices.get("rule") == "biohsic"}
    for sweep in sweeps_of(finished):
        runs = [finished[job] for job in sweep]
        if 1 < len(runs) == len({run.get("data.batchsize") for run in runs}):
            return [run.folder for run in runs]
    raise UserError("no finished sweep over data.batchsize; name its folder")


def evenly_spaced(first: int, last: int, count: int) -> list[int]:
    """At most ``count`` whole numbers from first to last, evenly spaced."""
    return sorted({round(value) for value in np.linspace(min(first, last), last, count)})
