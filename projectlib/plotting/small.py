"""The small data sets: their points, and the networks that tell them apart."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from projectlib.errors import UserError
from projectlib.plotting.page import is_network, only, select_runs
from projectlib.plotting.style import BLACK, BLUE, KINDS, ORANGE, SEQUENCE, kind, legend
from projectlib.runs.folder import Folders

MOST_DRAWN = 12  # neurons of one layer


def points(runs: Folders | None, axis: Axes) -> None:
    """The training points of a data set in the plane, by class."""
    from projectlib.training.tasks import load_dataset  # imports torch, which the other figures do without

    run = only(select_runs(runs, is_network, "run of a network"))
    train = load_dataset(run.config).train
    if train.inputs.shape[1:] != (2,):
        raise UserError(
            f"data of {run.folder} has samples of shape {tuple(train.inputs.shape[1:])}; expected points (2,)"
        )
    for label, color, marker in ((0, BLUE, "o"), (1, ORANGE, "^")):
        x, y = train.inputs[train.labels == label].T.numpy()
        axis.scatter(x, y, s=8, color=color, marker=marker, linewidths=0, label=f"class {label}")
    axis.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    axis.set_title(f"Training samples\n{run.get('data.name')}, {len(train.labels)} points")
    legend(axis, markerscale=2)


def network(runs: Folders | None, axis: Axes) -> None:
    """A drawing of a network: its layers, and what each of them learns from."""
    from projectlib.training.tasks import load_dataset

    run = only(select_runs(runs, is_network, "run of a network"))
    dataset = load_dataset(run.config)
    widths = [int(np.prod(dataset.input_shape)), *run.get("model.features", []), dataset.num_classes]
    columns = [neuron_heights(width) for width in widths]
    for index, (left, right) in enumerate(pairwise(columns)):
        for a in left:
            axis.plot(
                [[index] * len(right), [index + 1] * len(right)], [[a] * len(right), right], color="0.75", linewidth=0.5
            )
    has_signal = kind(run) in KINDS and KINDS[kind(run)].has_signal
    for index, (width, column) in enumerate(zip(widths, columns, strict=True)):
        hidden = 0 < index < len(widths) - 1
        name = "input" if index == 0 else f"layer {index}" if hidden else "readout"
        color = SEQUENCE[0].color if hidden else "white"
        axis.scatter([index] * len(column), column, s=70, color=color, edgecolors=BLACK, linewidths=0.8, zorder=3)
        axis.text(index, -1.25, f"{name}\n{width}", ha="center", va="top", fontsize="small")
        if index and (has_signal or not hidden):
            text = "own signal" if hidden else "cross-entropy"
            axis.annotate(
                text,
                (index, max(column) + 0.1),
                (index, 1.5),
                ha="center",
                fontsize="x-small",
                arrowprops={"arrowstyle": "->"},
            )
    axis.set_title("Network")
    axis.set(xlim=(-0.5, len(widths) - 0.5), ylim=(-1.9, 1.8))
    axis.axis("off")


def neuron_heights(width: int) -> Sequence[float]:
    """Heights of a layer's neurons in [-1, 1]; a wide layer is drawn with fewer."""
    count = min(width, MOST_DRAWN)
    half = min(1.0, 0.15 * (count - 1))
    return np.linspace(half, -half, count)
