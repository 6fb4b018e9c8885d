"""What spiking layers say of a sample of each class: a dot for every spike."""

import numpy as np
from matplotlib.axes import Axes

from projectlib.errors import UserError
from projectlib.plotting.page import select_run, use_panels
from projectlib.plotting.signals import logged
from projectlib.plotting.style import BLACK, GREY, conditions, figure_title
from projectlib.runs.run import Folders


def raster(folders: Folders | None, axes: np.ndarray) -> None:
    """Spikes of the first model after the last epoch that was logged, one panel per layer.

    The samples, one per class, are presented one after the other, each from rest; neurons are sorted by the class for
    which they fire most.
    """
    run = select_run(folders)
    num_layers = sum(name.startswith("spikes_layer") for name in run.arrays())
    if not num_layers:
        raise UserError(f"{run.folder} has no spikes; expected a run with model=spiking-mlp training.log_arrays=[...]")
    axes = use_panels(axes, num_layers, "layers")
    for index, ax in enumerate(axes):
        _, trains = logged(run, f"spikes_layer{index}")
        draw_layer(ax, trains[-1], 1000 * run.get("training.time_step"))
        ax.set_title(f"hidden layer {index + 1}: {trains[-1].sum() / trains[-1].shape[1]:,.0f} spikes a sample")
        ax.set(xlabel="time (ms), samples of one class after the other", ylabel="neuron")
    figure_title(axes[0].figure, f"Spikes of one model, {conditions([run])}")


def draw_layer(ax: Axes, train: np.ndarray, milliseconds: float) -> None:
    """train: (time steps, samples, neurons), 1 for a spike.  milliseconds: of a time step."""
    num_steps, num_samples, num_neurons = train.shape
    train = train[:, :, np.argsort(train.sum(0).argmax(0), kind="stable")]
    times, neurons = train.swapaxes(0, 1).reshape(-1, num_neurons).nonzero()
    ax.plot(times * milliseconds, neurons, linestyle="none", marker="|", markersize=2.5, color=BLACK)
    for sample in range(num_samples + 1):
        ax.axvline(sample * num_steps * milliseconds, color=GREY, linewidth=0.6)
    ax.set(xlim=(0, num_samples * num_steps * milliseconds), ylim=(-1, num_neurons))
