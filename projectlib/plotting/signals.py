"""Inside a network: the three factors of its rule, the signal against the exact gradient, and what layers represent.

All are drawn from ``arrays.npz``, which ``training.log_arrays`` fills.
"""

import numpy as np
from matplotlib.axes import Axes

from projectlib.errors import UserError
from projectlib.plotting.curves import evenly_spaced
from projectlib.plotting.page import is_network, only, select_runs
from projectlib.plotting.style import (
    DIVERGING,
    SEQUENCE,
    SEQUENTIAL,
    band,
    extent,
    figure_title,
    legend,
    names_and_looks,
    whole_epochs,
    window_ticks,
)
from projectlib.runs.folder import Folders, Run

MOST_SIZES = 4  # window sizes whose curves are drawn


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


def three_factors(runs: Folders | None, axes: np.ndarray) -> None:
    """Weight change of the last hidden layer, with its input above and its signal beside it.

    One axis an epoch, from the first to the last that was logged; all at one window.  Each quantity is drawn
    relative to its largest value in that epoch, which the title gives for the weight change.
    """
    run = only(select_runs(runs, is_network, "run of a network"))
    epochs, inputs, signals, changes = logged(run, "input", "signal", "weight_change")
    axes = np.atleast_1d(axes)
    indices = evenly_spaced(0, len(epochs) - 1, len(axes))
    for axis in axes[len(indices) :]:
        axis.axis("off")
    for axis, index in zip(axes, indices, strict=False):
        above = axis.inset_axes((0, 1.04, 1, 0.1))
        beside = axis.inset_axes((-0.14, 0, 0.1, 1))
        parts = ((axis, changes[index]), (above, inputs[index][None]), (beside, signals[index][:, None]))
        for place, values in parts:
            limit = np.abs(values).max() or 1.0
            image = place.imshow(
                values / limit, aspect="auto", interpolation="nearest", cmap=DIVERGING, vmin=-1, vmax=1
            )
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(True)
        beside.set_ylabel("signal")
        above.set_title(f"epoch {epochs[index]}\nlargest change {np.abs(changes[index]).max():.1e}")
        above.set_ylabel("input", rotation=0, ha="right", va="center")
        axis.set_xlabel("weight change")
    figure_title(axes[0].figure, f"Three factors of the last hidden layer, {extent([run])}")
    axes[0].figure.colorbar(image, ax=axes, label="relative to the largest", shrink=0.8)


def cosine_over_epochs(runs: Folders | None, axis: Axes) -> None:
    """Cosine between the applied signal and the exact gradient over epochs at several window sizes.

    Mean and sd over models of the mean over hidden layers and windows.
    """
    run = only(select_runs(runs, is_network, "run of a network"))
    epochs, cosine, sizes = logged(run, "cosine", "window_sizes")
    own = run.get("data.batchsize")
    shown = [sizes[0][index] for index in evenly_spaced(0, sizes.shape[1] - 1, MOST_SIZES)]
    shown = sorted({*shown, own} & {*sizes[0].tolist()})
    for size, look in zip(shown, SEQUENCE, strict=False):
        values = cosine.mean(2)[:, :, list(sizes[0]).index(size)]
        band(axis, epochs, values, f"window {size}{' (its own)' if size == own else ''}", look)
    finish_cosine(axis, f"Signal and exact gradient over epochs\n{extent([run])}")
    whole_epochs(axis)


def cosine_by_window(runs: Folders | None, axis: Axes) -> None:
    """Cosine between the applied signal and the exact gradient against the window size.

    One run: every hidden layer at the first and the last epoch logged (open and filled), mean and sd over models.
    Several runs, such as a sweep over windows: each at its own window, the same way, mean over layers.
    """
    runs = select_runs(runs, is_network, "run of a network")
    if len(runs) == 1:
        epochs, cosine, sizes = logged(runs[0], "cosine", "window_sizes")
        for layer in range(cosine.shape[2]):
            for index in (0, -1):
                look = SEQUENCE[layer % len(SEQUENCE)]
                band(axis, sizes[0], cosine[index, :, layer].T, f"layer {layer + 1}, epoch {epochs[index]}", look)
                axis.lines[-1].set_markerfacecolor("white" if index == 0 else look.color)
        windows = sizes[0].tolist()
    else:
        runs = sorted(runs, key=lambda run: run.get("data.batchsize"))
        windows = [run.get("data.batchsize") for run in runs]
        for index, look in ((0, SEQUENCE[1]), (-1, SEQUENCE[0])):
            points = []
            for run, window in zip(runs, windows, strict=True):
                epochs, cosine, sizes = logged(run, "cosine", "window_sizes")
                points.append(cosine.mean(2)[index][:, list(sizes[0]).index(window)])
            band(axis, np.array(windows), np.array(points), f"epoch {epochs[index]}, at its own window", look)
    window_ticks(axis, windows)
    finish_cosine(axis, f"Signal and exact gradient by window size\n{extent(runs)}")


def finish_cosine(axis: Axes, title: str) -> None:
    axis.axhline(0, color="0.6", linewidth=0.8)
    axis.set_title(title)
    axis.set_ylabel("cosine of the angle")
    axis.set_ylim(top=1.05)
    legend(axis)


def kernel_matrices(runs: Folders | None, axes: np.ndarray) -> None:
    """Kernel matrix of the last hidden layer's activations, samples sorted by class, before and after training.

    axes: (2, runs).  First model of each run; lines part the classes.
    """
    runs = select_runs(runs, is_network, "run of a network")
    axes = np.reshape(axes, (2, -1))
    for axis in axes[:, len(runs) :].flat:
        axis.axis("off")
    for column, run, (name, _) in zip(axes.T, runs, names_and_looks(runs), strict=False):
        layers = [name for name in run.arrays() if name.startswith("kernel_layer")]
        last = max(layers, key=lambda name: int(name.removeprefix("kernel_layer")), default="kernel_layer0")
        epochs, kernels, labels = logged(run, last, "labels")
        for axis, index in zip(column, (0, -1), strict=True):
            image = axis.imshow(kernels[index], cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest")
            for edge in np.flatnonzero(np.diff(labels[0])) + 0.5:
                axis.axhline(edge, color="white", linewidth=0.4)
                axis.axvline(edge, color="white", linewidth=0.4)
            axis.set(xticks=[], yticks=[], title=f"{name}\nepoch {epochs[index]}")
            axis.spines[:].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("samples by class")
    axes[0, 0].figure.suptitle(
        f"Kernel matrices of the last hidden layer, {extent(runs)}", ha="left", x=0.01, fontsize=10
    )
    axes[0, 0].figure.colorbar(image, ax=axes, label="kernel of the last hidden layer", shrink=0.8, aspect=30)
