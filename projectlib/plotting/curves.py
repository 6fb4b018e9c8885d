"""Accuracy and HSIC over epochs, and accuracy against the window size."""

import numpy as np
from matplotlib.axes import Axes

from projectlib.errors import UserError
from projectlib.plotting import published
from projectlib.plotting.page import is_network, only, select_runs
from projectlib.plotting.style import (
    BLACK,
    KINDS,
    PERCENT,
    SEQUENCE,
    band,
    extent,
    kind,
    legend,
    names_and_looks,
    whole_epochs,
    window_ticks,
)
from projectlib.runs.folder import Folders, all_runs
from projectlib.sweeps.experiments import RESULTS, jobs_beside

MOST_EPOCHS = 3  # drawn of a sweep


def accuracy(runs: Folders | None, axis: Axes) -> None:
    """Test accuracy over epochs, mean and sd over models, with the published final values as dashed lines."""
    runs = select_runs(runs, is_network, "run of a network")
    for run, (name, look) in zip(runs, names_and_looks(runs), strict=True):
        epochs, values = run.curve("test", "accuracy")
        band(axis, epochs, 100 * values, name, look, PERCENT)
    drawn = dict.fromkeys((run.get("data.name"), kind(run)) for run in runs)
    for data, name in (key for key in drawn if key in published.FINAL):
        label = f"published, {KINDS[name].title}: {published.FINAL[data, name]} %"
        color = KINDS[name].look.color
        axis.axhline(published.FINAL[data, name], color=color, linewidth=0.9, linestyle=(0, (8, 4)), label=label)
    axis.set_title(f"Test accuracy\n{extent(runs)}")
    axis.set_ylabel("test accuracy (%)")
    leave_out_epoch_0(axis)
    whole_epochs(axis)
    legend(axis)


def leave_out_epoch_0(axis: Axes) -> None:
    """Zoom in past epoch 0, whose accuracy at chance would press the rest into a narrow strip."""
    bands = [path.vertices for filled in axis.collections for path in filled.get_paths()]
    drawn = [*(line.get_xydata() for line in axis.lines), *bands]
    learnt = np.concatenate([xy[xy[:, 0] >= 1] for xy in drawn])[:, 1]
    if len(learnt):
        margin = 0.05 * max(np.ptp(learnt), 2)
        axis.set_ylim(learnt.min() - margin, min(learnt.max() + margin, 101))
        axis.set_xlim(left=0.5)


def learning_curve(runs: Folders | None, axis: Axes) -> None:
    """Accuracy of one run over epochs on each of its splits, mean and sd over models."""
    run = only(select_runs(runs, is_network, "run of a network"))
    splits = run.history.splits
    for split, look in zip(splits, SEQUENCE, strict=False):
        epochs, values = run.curve(split, "accuracy")
        band(axis, epochs, 100 * values, split, look, PERCENT)
    axis.set_title(f"Accuracy, {names_and_looks([run])[0][0]}\n{extent([run])}")
    axis.set_ylabel("accuracy (%)")
    leave_out_epoch_0(axis)
    whole_epochs(axis)
    legend(axis)


def hsic(runs: Folders | None, axis: Axes) -> None:
    """Both parts of every layer's objective over epochs: HSIC with the labels (filled) and the inputs (open)."""
    run = only(select_runs(runs, lambda run: bool(run.get("training.log_hsic")), "run with training.log_hsic=true"))
    num_layers = sum(name.startswith("hsic_layer") for name in run.history.metrics)
    for layer in range(num_layers):
        name = "readout" if layer == num_layers - 1 else f"layer {layer + 1}"
        look = SEQUENCE[layer % len(SEQUENCE)]
        band(axis, *run.curve("train", f"hsicy_layer{layer}"), f"{name}, labels", look)
        band(axis, *run.curve("train", f"hsicx_layer{layer}"), f"{name}, inputs", look)
        axis.lines[-1].set(markerfacecolor="white", linewidth=0.9)
    axis.set_title(f"HSIC of every layer\n{extent([run])}")
    axis.set_ylabel("HSIC")
    whole_epochs(axis)
    legend(axis)


def window_size(runs: Folders | None, axis: Axes) -> None:
    """Test (filled) and training accuracy (open) against the window size, at the first, a middle and the last epoch.

    runs: the jobs of a sweep over ``data.batchsize``, or its folder.
    """
    jobs = select_runs(newest_window_sweep() if runs is None else runs, is_network, "run of a network")
    by_window = {run.get("data.batchsize"): run for run in jobs}
    if len(by_window) < 2:
        raise UserError(
            f"{jobs[0].folder}: all runs have the window {next(iter(by_window))}; expected a sweep over data.batchsize"
        )
    if len(by_window) < len(jobs):
        raise UserError(
            f"{jobs[0].folder.parent}: several runs have the same window; expected one a window: name the folders of "
            "those to draw"
        )
    windows = sorted(by_window)
    last = min(run.history.last_epoch for run in jobs)
    for epoch, look in zip(evenly_spaced(1, last, MOST_EPOCHS), SEQUENCE, strict=False):
        for split in ("test", "train"):
            values = [100 * np.array(by_window[window].history.values(epoch, split, "accuracy")) for window in windows]
            if not all(map(len, values)):
                raise UserError(f"{jobs[0].folder.parent}: not all jobs have the {split} accuracy of epoch {epoch}")
            means = [v.mean() for v in values]
            spread = [v.std(ddof=1) if len(v) > 1 else 0 for v in values]
            above = np.minimum(spread, PERCENT[1] - np.array(means))
            label, look_of_bars = f"epoch {epoch}, {split}", {"capsize": 2, "elinewidth": 0.8}
            (line, *_) = axis.errorbar(windows, means, (spread, above), **look._asdict(), **look_of_bars, label=label)
            if split == "train":
                line.set(markerfacecolor="white", linewidth=0.9)
    reference = published.BY_WINDOW.get(jobs[0].get("data.name"))
    if reference:
        axis.plot(
            [*reference], [*reference.values()], color=BLACK, linestyle=(0, (8, 4)), marker="x", label="published, test"
        )
    axis.set_title(f"Accuracy by window size\n{extent(jobs)}")
    axis.set_ylabel("accuracy (%)")
    window_ticks(axis, windows)
    legend(axis)


def newest_window_sweep() -> list:
    """The folders of the newest sweep over windows."""
    runs = [run for run in all_runs(RESULTS) if run.is_sweep_job and run.is_finished]
    for run in runs:
        jobs = jobs_beside(run, runs)
        if 1 < len(jobs) == len({job.get("data.batchsize") for job in jobs}):
            return [job.folder for job in jobs]
    raise UserError("no finished sweep over data.batchsize; name its folder")


def evenly_spaced(first: int, last: int, count: int) -> list[int]:
    """At most ``count`` whole numbers from first to last, evenly spaced."""
    return sorted({round(value) for value in np.linspace(min(first, last), last, count)})
