"""Inside a network: the three factors of its rule, the signal against the exact gradient, and what layers represent.

All are drawn from ``arrays.npz``, which ``training.log_arrays`` fills.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from projectlib.errors import UserError
from projectlib.plotting.curves import evenly_spaced
from projectlib.plotting.page import select_run, select_runs, use_panels
from projectlib.plotting.style import (
    DIVERGING,
    SEQUENCE,
    SEQUENTIAL,
    band,
    conditions,
    figure_title,
    legend,
    names_and_looks,
    whole_epochs,
    window_ticks,
)
from projectlib.runs.run import Folders, Run

MAX_SIZES = 4  # window sizes whose curves are drawn


def logged(run: Run, *names: str) -> list[np.ndarray]:
    """Arrays of ``arrays.npz``, epochs first, and before them their epochs (E,)."""
    arrays = run.arrays()
    lacking = [name for name in ("epoch", *names) if name not in arrays]
    if lacking:
        raise UserError(
            f"{run.folder / 'arrays.npz'} has no {', '.join(lacking)}; expected a run of a network with hidden layers "
            "and a rule with a signal (rule=biohsic)"
        )
    return [arrays["epoch"], *(arrays[name] for name in names)]


def three_factors(folders: Folders | None, axes: np.ndarray) -> None:
    """Weight change of the last hidden layer, with its input above and its signal beside it.

    One panel per epoch, from the first to the last that was logged; all at one window.  Each quantity is drawn
    relative to its largest value in that epoch, which the title gives for the weight change.
    """
    run = select_run(folders)
    epochs, inputs, signals, changes = logged(run, "input", "signal", "weight_change")
    axes = np.atleast_1d(axes)
    indices = evenly_spaced(0, len(epochs) - 1, len(axes))
    for ax, index in zip(use_panels(axes, len(indices), "epochs"), indices, strict=True):
        above, beside = ax.inset_axes((0, 1.04, 1, 0.1)), ax.inset_axes((-0.14, 0, 0.1, 1))
        image = draw_factor(ax, changes[index])
        draw_factor(above, inputs[index][None])
        draw_factor(beside, signals[index][:, None])
        beside.set_ylabel("signal")
        above.set_title(f"epoch {epochs[index]}\nlargest, before the optimizer: {np.abs(changes[index]).max():.1e}")
        above.set_ylabel("input", rotation=0, ha="right", va="center")
        ax.set_xlabel("weight change")
    figure_title(axes[0].figure, f"Three factors of the last hidden layer of one model, {conditions([run])}")
    axes[0].figure.colorbar(image, ax=axes, label="relative to the largest", shrink=0.8)


def draw_factor(ax: Axes, values: np.ndarray) -> AxesImage:
    """A matrix relative to its largest magnitude."""
    limit = np.abs(values).max() or 1.0
    image = ax.imshow(values / limit, aspect="auto", interpolation="nearest", cmap=DIVERGING, vmin=-1, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    return image


def cosine_over_epochs(folders: Folders | None, ax: Axes) -> None:
    """Cosine between the applied signal and the exact gradient over epochs at several window sizes.

    Mean and sd over models of the mean over hidden layers and windows.
    """
    run = select_run(folders)
    epochs, cosine, sizes = logged(run, "cosine", "window_sizes")
    own = run.get("data.batchsize")
    shown = [sizes[0][index] for index in evenly_spaced(0, sizes.shape[1] - 1, MAX_SIZES)]
    shown = sorted({*shown, own} & {*sizes[0].tolist()})
    for size, look in zip(shown, SEQUENCE, strict=False):
        values = cosine.mean(2)[:, :, list(sizes[0]).index(size)]
        band(ax, epochs, values, f"window {size}{' (its own)' if size == own else ''}", look)
    finish_cosine(ax, f"Signal and exact gradient over epochs\n{conditions([run])}")
    whole_epochs(ax)


def cosine_by_window(folders: Folders | None, ax: Axes) -> None:
    """Cosine between the applied signal and the exact gradient against the window size.

    One run: every hidden layer at the first and the last epoch logged (open and filled), mean and sd over models.
    Several runs, such as a sweep over windows: each at its own window, the same way, mean over layers.
    """
    runs = select_runs(folders)
    windows = cosine_of_layers(runs[0], ax) if len(runs) == 1 else cosine_of_runs(runs, ax)
    window_ticks(ax, windows)
    finish_cosine(ax, f"Signal and exact gradient by window size\n{conditions(runs)}")


def cosine_of_layers(run: Run, ax: Axes) -> list[int]:
    """A curve for each hidden layer and epoch; returns the window sizes that the run was probed with."""
    epochs, cosine, sizes = logged(run, "cosine", "window_sizes")
    for layer in range(cosine.shape[2]):
        look = SEQUENCE[layer % len(SEQUENCE)]
        for index in (0, -1):
            band(ax, sizes[0], cosine[index, :, layer].T, f"layer {layer + 1}, epoch {epochs[index]}", look)
            ax.lines[-1].set_markerfacecolor("white" if index == 0 else look.color)
    return sizes[0].tolist()


def cosine_of_runs(runs: Sequence[Run], ax: Axes) -> list[int]:
    """A curve for each epoch, through the runs; returns their window sizes."""
    runs = sorted(runs, key=lambda run: run.get("data.batchsize"))
    windows = [run.get("data.batchsize") for run in runs]
    if len({run.get("nmodels") for run in runs}) > 1 or len({*windows}) < len(windows):
        raise UserError(f"{runs[0].folder.parent}: expected runs of as many models each, and one of each window")
    for index, look in ((0, SEQUENCE[1]), (-1, SEQUENCE[0])):
        points, seen = [], set()
        for run, window in zip(runs, windows, strict=True):
            epochs, cosine, sizes = logged(run, "cosine", "window_sizes")
            points.append(cosine.mean(2)[index][:, list(sizes[0]).index(window)])
            seen.add(int(epochs[index]))
        label = f"epoch {' or '.join(map(str, sorted(seen)))}, at its own window"
        band(ax, np.array(windows), np.array(points), label, look)
    return windows


def finish_cosine(ax: Axes, title: str) -> None:
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_title(title)
    ax.set_ylabel("cosine of the angle")
    ax.set_ylim(top=1.05)
    legend(ax)


def kernel_matrices(folders: Folders | None, axes: np.ndarray) -> None:
    """Kernel matrix of the last hidden layer's activations, samples sorted by class, before and after training.

    axes: (2, runs).  First model of each run; lines part the classes.
    """
    runs = select_runs(folders)
    axes = use_panels(np.reshape(axes, (2, -1)), len(runs), "runs")
    for column, run, (name, _) in zip(axes.T, runs, names_and_looks(runs), strict=True):
        layers = [name for name in run.arrays() if name.startswith("kernel_layer")]
        last = max(layers, key=lambda name: int(name.removeprefix("kernel_layer")), default="kernel_layer0")
        epochs, kernels, labels = logged(run, last, "labels")
        for ax, index in zip(column, (0, -1), strict=True):
            image = draw_kernel(ax, kernels[index], labels[0])
            ax.set_title(f"{name}\nepoch {epochs[index]}")
    for ax in axes[:, 0]:
        ax.set_ylabel("samples by class")
    figure_title(axes[0, 0].figure, f"Kernel matrices of the last hidden layer of one model, {conditions(runs)}")
    axes[0, 0].figure.colorbar(image, ax=axes, label="kernel of the last hidden layer", shrink=0.8, aspect=30)


def draw_kernel(ax: Axes, kernel: np.ndarray, labels: np.ndarray) -> AxesImage:
    """kernel: (n, n).  labels: (n,), sorted."""
    image = ax.imshow(kernel, cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest")
    for edge in np.flatnonzero(np.diff(labels)) + 0.5:
        ax.axhline(edge, color="white", linewidth=0.4)
        ax.axvline(edge, color="white", linewidth=0.4)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return image
