"""Memories instead of a window: what they cost and are worth, and what they have learnt."""

from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from projectlib.errors import UserError
from projectlib.plotting.curves import DASHED
from projectlib.plotting.page import select_runs, use_panels
from projectlib.plotting.signals import logged
from projectlib.plotting.style import DIVERGING, conditions, figure_title, kind, kind_of, legend, names_and_looks
from projectlib.runs.history import mean_and_sd
from projectlib.runs.run import Folders, Run


def accuracy_by_numbers_kept(folders: Folders | None, ax: Axes) -> None:
    """Test accuracy after the last epoch against the numbers that a model keeps beside its weights.

    A point with its sd over models for each run, runs of one kind joined; those that keep nothing are horizontal lines.
    Frozen layers, far below all that learn, would press these together: they are drawn only where nothing else is.
    """
    given = sorted(select_runs(folders), key=kind)
    runs, looks = [run for run in given if kind(run) != "frozen"] or given, {}
    for run, (_, look) in zip(runs, names_and_looks(runs), strict=True):
        looks.setdefault(kind(run), look)
    for name, of_kind in groupby(runs, key=kind):
        title, look = kind_of(name).title, looks[name]
        points = sorted((kept(run), *last_accuracy(run)) for run in of_kind)
        numbers, means, sds = (np.array(column) for column in zip(*points, strict=True))
        if not numbers.any():
            for mean in means:
                ax.axhline(mean, color=look.color, linewidth=0.9, linestyle=DASHED, label=f"{title} (keeps nothing)")
            continue
        ax.errorbar(numbers, means, sds, **look._asdict(), capsize=2, elinewidth=0.8, label=title)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.minorticks_off()
    ax.set_title(f"A memory instead of a window\n{conditions(runs)}")
    ax.set(xlabel="numbers kept beside the weights", ylabel="test accuracy (%)")
    legend(ax)


def kept(run: Run) -> int:
    """Numbers that a model of the run keeps.  Raises UserError where its summary does not say."""
    if (number := run.summary.get("numbers_kept")) is None:
        raise UserError(f"{run.folder}/summary.json does not say what a model keeps; expected a run that has ended")
    return number


def last_accuracy(run: Run) -> tuple[float, float]:
    """Mean and sd of the test accuracy over models, in percent, after the last epoch; an sd of 0 for one model."""
    mean, sd = mean_and_sd(run.history.values(run.history.last_epoch, "test", "accuracy"))
    return 100 * mean, 100 * (sd or 0.0)


def of_classes(folders: Folders | None, axes: np.ndarray) -> None:
    """What the memory of the last hidden layer has learnt of each class, one panel per run; first model.

    Rows are classes, columns neurons, sorted by the class that each stands for; each row relative to its largest value.
    """
    runs = select_runs(folders)
    axes = use_panels(axes, len(runs), "runs")
    for ax, run, (name, _) in zip(axes, runs, names_and_looks(runs), strict=True):
        _, learnt = logged(run, "of_classes")
        rows = learnt[-1] / np.maximum(np.abs(learnt[-1]).max(1, keepdims=True), np.finfo(np.float32).tiny)
        image = ax.imshow(rows[:, np.argsort(rows.argmax(0))], cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
        ax.set(xticks=[], yticks=range(len(rows)), xlabel=f"{rows.shape[1]} neurons")
        ax.set_title(name)
    axes[0].set_ylabel("class")
    figure_title(axes[0].figure, f"What the memories of one model have learnt of each class, {conditions(runs)}")
    axes[0].figure.colorbar(image, ax=axes, label="relative to the largest of the class", shrink=0.8, aspect=30)
