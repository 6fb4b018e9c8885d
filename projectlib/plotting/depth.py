"""Does a later layer add anything: how well a linear readout of each layer tells the classes apart."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn.functional import one_hot

from projectlib.data import Dataset, Split
from projectlib.ensemble import Ensemble
from projectlib.errors import UserError
from projectlib.plotting.memories import last_accuracy
from projectlib.plotting.page import grid, new_figure, save, select_runs, use_panels
from projectlib.plotting.style import Look, conditions, figure_title, kind, kind_of, legend, names_and_looks, styled
from projectlib.runs.load import load
from projectlib.runs.run import Folders, Run
from projectlib.training.probes import settle
from projectlib.training.tasks import load_data_of_run

NUM_TRAINING = 10_000  # samples that a probe is fitted to
RIDGE = 1e-3  # relative to the mean square of an activation

INTRODUCTION = """## Depth

Does a later layer add anything? Test accuracy (%) of a linear probe (ridge regression on 10,000 training images) that
reads the first or the last hidden layer of MLPs with 256 neurons per layer ({conditions}), and
of the network's own readout. `python -m projectlib.sweeps.experiments table/depth` makes the runs. The frozen control
is only in the table, not in the figure.
"""


class Probed(NamedTuple):
    """A run, and the test accuracy of a probe of each hidden layer in percent, (num_models, hidden layers)."""

    run: Run
    accuracy: np.ndarray

    @property
    def depth(self) -> int:
        return self.accuracy.shape[1]


def linear_probes(folders: Folders | None, axes: np.ndarray) -> list[Probed]:
    """Test accuracy of a linear probe of every hidden layer, mean and sd over models; a panel per depth.

    Frozen layers, far below all that learn, would press these together: they are drawn only where nothing else is.
    """
    probed = [Probed(run, 100 * probe_run(run)) for run in sorted(select_runs(folders), key=kind)]
    learning = [one for one in probed if kind(one.run) != "frozen"] or probed
    depths = sorted({one.depth for one in learning})
    axes = use_panels(axes, len(depths), "depths")
    of_kinds = {kind(one.run): one.run for one in learning}
    looks = dict(zip(of_kinds, names_and_looks([*of_kinds.values()]), strict=True))
    for ax, depth in zip(axes, depths, strict=True):
        draw_depth(ax, [one for one in learning if one.depth == depth], looks)
        ax.set(title=f"{depth} hidden layers", xlabel="hidden layer")
        ax.locator_params("x", integer=True)
    axes[0].set_ylabel("accuracy of a linear probe (%)")
    last = {kind(one.run) for one in learning if one.depth == depths[-1]}
    for title, look in (looks[name] for name in looks if name not in last):
        axes[-1].plot([], [], **look._asdict(), label=title)
    legend(axes[-1])
    figure_title(axes[0].figure, f"What each layer tells of the class, {conditions([one.run for one in probed])}")
    return probed


def draw_depth(ax: Axes, probed: list[Probed], looks: dict[str, tuple[str, Look]]) -> None:
    """One depth.  looks: by kind, the same in all panels; several runs of a kind have others."""
    runs = [one.run for one in probed]
    num = Counter(map(kind, runs))
    for own, (run, accuracy) in zip(names_and_looks(runs), probed, strict=True):
        name, look = own if num[kind(run)] > 1 else looks[kind(run)]
        layers = np.arange(1, accuracy.shape[1] + 1)
        sd = accuracy.std(0, ddof=1) if len(accuracy) > 1 else None
        ax.errorbar(layers, accuracy.mean(0), sd, **look._asdict(), capsize=2, elinewidth=0.8, label=name)


@styled()
def section(folders: Folders, folder: Path) -> str:
    """Draw ``depth.png`` and return the part of a page in Markdown that shows it, with the first and last layers and
    the readout.
    """
    figure, axes = new_figure(columns=3, width=3.6, sharey=True)
    probed = linear_probes(folders, axes)
    save(figure, folder, "depth", types=["png"])
    depths = sorted({one.depth for one in probed})
    rows = []
    if len({(kind(one.run), one.depth) for one in probed}) < len(probed):
        raise UserError("several runs have the same rule and depth; expected one each: name those to show")
    for name in dict.fromkeys(kind(one.run) for one in probed):
        of_kind = {one.depth: one for one in probed if kind(one.run) == name}
        rows.append([kind_of(name).title, *(in_words(of_kind[d]) if d in of_kind else "-" for d in depths)])
    head = ["rule", *(f"{depth} layers: first, last; readout" for depth in depths)]
    introduction = INTRODUCTION.format(conditions=conditions([one.run for one in probed]))
    return f"{introduction}\n{grid(head, rows)}\n![What each layer tells of the class](depth.png)\n"


def in_words(probed: Probed) -> str:
    """Accuracies of probes of the first and the last layer, and of the readout, means over models."""
    means = probed.accuracy.mean(0)
    return f"{means[0]:.1f}, {means[-1]:.1f}; {last_accuracy(probed.run)[0]:.1f}"


def probe_run(run: Run) -> np.ndarray:
    """(num_models, hidden layers) test accuracy of ridge regressions from a layer's activities to one-hot labels."""
    trained = load(run.folder)
    dataset = load_data_of_run(trained.config, run.folder)
    return np.array([probe_member(trained.ensemble, index, dataset) for index in range(trained.ensemble.num_models)])


def probe_member(ensemble: Ensemble, index: int, dataset: Dataset) -> list[float]:
    train = Split(dataset.train.inputs[:NUM_TRAINING], dataset.train.labels[:NUM_TRAINING])
    parameters = ensemble.member(index)
    fitted, tested = (settle(ensemble.network, parameters, split.inputs)[0][:-1] for split in (train, dataset.test))
    y = one_hot(train.labels, dataset.num_classes).double()
    return [
        probe(z.flatten(1).double(), y, held_out.flatten(1).double(), dataset.test.labels)
        for z, held_out in zip(fitted, tested, strict=True)
    ]


def probe(z: Tensor, y: Tensor, held_out: Tensor, labels: Tensor) -> float:
    """Accuracy on held_out (m, d) of ``argmax W z + c``, fitted by ridge regression of y (n, classes) on z (n, d)."""
    mean = z.mean(0)
    z = z - mean
    gram = z.T @ z
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=z.dtype)
    weights = torch.linalg.solve(gram + ridge, z.T @ (y - y.mean(0)))
    predicted = ((held_out - mean) @ weights + y.mean(0)).argmax(1)
    return (predicted == labels).double().mean().item()
