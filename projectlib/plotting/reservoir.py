"""Reservoirs: their output beside the modulatory signal they learn, and how far it is off."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from projectlib.errors import UserError
from projectlib.plotting.page import select_run
from projectlib.plotting.published import STRETCHES
from projectlib.plotting.style import (
    BLACK,
    BLUE,
    DIVERGING,
    ORANGE,
    VERMILION,
    Look,
    band,
    conditions,
    legend,
    whole_epochs,
)
from projectlib.runs.run import Folders, Run


def heat_maps(folders: Folders | None, axes: np.ndarray) -> None:
    """Target (first row) over output (second row) at three stretches of simulation time.  axes: (2, 3).

    The output is that of the first model while it learns.  The stretches are the published ones; of a run that
    is shorter, the same fractions.
    """
    run = reservoir_run(folders)
    target, output, dt = simulation(run)
    total = len(target) * dt
    scale = min(1.0, total / STRETCHES[-1][1])
    limit = np.percentile(np.abs(target), 99) or 1.0
    for column, stretch in zip(axes.T, STRETCHES, strict=True):
        start, stop = (scale * time for time in stretch)
        steps = slice(round(start / dt), max(round(stop / dt), round(start / dt) + 1))
        for ax, values, name in zip(column, (target, output), ("target", "output"), strict=True):
            image = heat_map(ax, values[steps], start, stop, limit)
            ax.set_title(f"{name}, {start:.2g} to {stop:.2g} s")
        column[1].set_xlabel("simulation time (s)")
    for ax in axes[:, 0]:
        ax.set_ylabel("neuron")
    axes[0, 0].figure.colorbar(image, ax=axes, label="modulatory signal", shrink=0.8, extend="both")


def heat_map(ax: Axes, values: np.ndarray, start: float, stop: float, limit: float) -> AxesImage:
    """values: (time steps, zdim), from start to stop in seconds, with colours from -limit to limit."""
    zdim = values.shape[1]
    image = ax.imshow(
        values.T,
        aspect="auto",
        interpolation="nearest",
        cmap=DIVERGING,
        vmin=-limit,
        vmax=limit,
        extent=(start, stop, zdim - 0.5, -0.5),
    )
    ax.set_yticks([0, zdim - 1])
    ax.locator_params("x", nbins=4)
    return image


def error_over_time(folders: Folders | None, ax: Axes) -> None:
    """Squared error of the output while it learns over simulation time, relative to the target's variance."""
    run = reservoir_run(folders)
    arrays = run.arrays("traces")
    target, output = traces(run, arrays)
    windows = target.shape[1]
    errors = (output[1:] - target[1:]).astype(float) ** 2
    percent = 100 * errors.mean((2, 3)) / target[1:].astype(float).var((1, 2, 3))[:, None]
    dt = run.get("training.time_step") * target.shape[2]
    times = dt * (np.arange(percent.size) + 1)
    ax.plot(times, percent.ravel(), color=BLUE, linewidth=0.8, label="each window")
    ends = times.reshape(percent.shape)[:, -1]
    middles = ends - dt * windows / 2
    ax.plot(middles, percent.mean(1), color=BLACK, marker="o", linestyle="--", label="mean of an epoch")
    ax.set_title(f"Error of the output of one model while it learns\n{conditions([run])}")
    ax.set(xlabel="simulation time (s)", ylabel="error (% of the target's variance)", yscale="log")
    ax.yaxis.set_major_formatter("{x:g}")
    legend(ax)


def error(folders: Folders | None, ax: Axes) -> None:
    """Error of the output over epochs: after and before the updates on a window, and on samples never learnt."""
    run = reservoir_run(folders)
    curves = (
        ("train", "nmse_after", "right after learning the window", Look(BLUE, "-", "o")),
        ("train", "nmse_before", "before learning the window", Look(ORANGE, "--", "s")),
        ("test", "nmse_before", "samples never learnt", Look(VERMILION, "-.", "^")),
    )
    measured = {(row["split"], name) for row in run.history.rows for name in row}  # a single number has no variance
    for split, name, label, look in (curve for curve in curves if curve[:2] in measured):
        epochs, values = run.curve(split, name)
        band(ax, epochs, 100 * values, label, look)
    ax.axhline(100, color=BLACK, linewidth=0.8, linestyle=":", label="a constant output")
    ax.set_title(f"Error of the output before and after it learns\n{conditions([run])}")
    ax.set(ylabel="error (% of the target's variance)", yscale="log")
    ax.yaxis.set_major_formatter("{x:g}")
    whole_epochs(ax)
    legend(ax)


def reservoir_run(folders: Folders | None) -> Run:
    return select_run(folders, lambda run: run.is_reservoir, "run of train-reservoir.py")


def simulation(run: Run) -> tuple[np.ndarray, np.ndarray, float]:
    """Target and output (time steps, zdim) of all epochs of training in turn, and the time step in seconds."""
    target, output = (a[1:].reshape(-1, a.shape[-1]) for a in traces(run, run.arrays("traces")))
    return target, output, run.get("training.time_step")


def traces(run: Run, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Target and output (epochs, windows, time steps, zdim), the epoch before training first."""
    target, output = arrays.get("target"), arrays.get("output")
    if target is None or output is None or target.ndim != 4 or target.shape != output.shape:
        raise UserError(f"{run.folder / 'traces.npz'} is damaged; expected target and output of one shape")
    if len(target) < 2:
        raise UserError(f"{run.folder / 'traces.npz'} has no epoch of training yet")
    return target, output
