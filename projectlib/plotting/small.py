"""The small data sets: their points, and the networks that tell them apart."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from projectlib.errors import UserError
from projectlib.plotting.page import select_run
from projectlib.plotting.style import BLACK, BLUE, ORANGE, SEQUENCE, kind, kind_of, legend
from projectlib.runs.run import Folders
from projectlib.training.tasks import load_data_of_run

MAX_NEURONS = 12  # drawn of one layer


def points(folders: Folders | None, ax: Axes) -> None:
    """The training points of a data set in the plane, by class."""
    run = select_run(folders)
    dataset = load_data_of_run(run.config, run.folder)
    if (dataset.input_shape, dataset.num_classes) != ((2,), 2):
        raise UserError(
            f"data of {run.folder} has samples of shape {dataset.input_shape} and {dataset.num_classes} classes; "
            "expected points (2,) and 2 classes"
        )
    train = dataset.train
    for label, color, marker in ((0, BLUE, "o"), (1, ORANGE, "^")):
        x, y = train.inputs[train.labels == label].T.numpy()
        ax.scatter(x, y, s=8, color=color, marker=marker, linewidths=0, label=f"class {label}")
    ax.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    ax.set_title(f"Training samples\n{run.get('data.name')}, {len(train.labels)} points")
    legend(ax, markerscale=2)


def network(folders: Folders | None, ax: Axes) -> None:
    """A drawing of a network: its layers, and what each of them learns from."""
    run = select_run(folders)
    dataset = load_data_of_run(run.config, run.folder)
    features = run.get("model.features", [])
    widths = [int(np.prod(dataset.input_shape)), *features, dataset.num_classes]
    signal = "own signal" if run.choices.get("rule") == "biohsic" or kind_of(kind(run)).has_signal else ""
    names = ["input", *(f"layer {index}" for index in range(1, len(features) + 1)), "readout"]
    taught_by = ["", *(signal for _ in features), "cross-entropy"]

    columns = [neuron_heights(width) for width in widths]
    for index, (left, right) in enumerate(pairwise(columns)):
        for height in left:
            x, y = [[index] * len(right), [index + 1] * len(right)], [[height] * len(right), right]
            ax.plot(x, y, color="0.75", linewidth=0.5)
    for index, (name, width, heights) in enumerate(zip(names, widths, columns, strict=True)):
        color = SEQUENCE[0].color if name.startswith("layer") else "white"
        ax.scatter([index] * len(heights), heights, s=70, color=color, edgecolors=BLACK, linewidths=0.8, zorder=3)
        ax.text(index, -1.25, f"{name}\n{width}", ha="center", va="top", fontsize="small")
    for index, text in enumerate(taught_by):
        if text:
            tip, tail = (index, max(columns[index]) + 0.1), (index, 1.5)
            ax.annotate(text, tip, tail, ha="center", fontsize="x-small", arrowprops={"arrowstyle": "->"})
    ax.set_title("Network")
    ax.set(xlim=(-0.5, len(widths) - 0.5), ylim=(-1.9, 1.8))
    ax.axis("off")


def neuron_heights(width: int) -> Sequence[float]:
    """Heights of a layer's neurons in [-1, 1]; a wide layer is drawn with fewer."""
    count = min(width, MAX_NEURONS)
    half = min(1.0, 0.15 * (count - 1))
    return np.linspace(half, -half, count).tolist()
