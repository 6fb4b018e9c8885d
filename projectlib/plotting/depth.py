"""Does a later layer add anything: how well a linear readout of each layer tells the classes apart.

python -m projectlib.plotting.depth               docs/depth.png, of the runs of experiment=table/depth
"""

from collections import defaultdict

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn.functional import one_hot

from projectlib.data import Dataset, Split
from projectlib.ensemble import Ensemble
from projectlib.plotting.page import network_runs, new_figure, save
from projectlib.plotting.style import conditions, figure_title, kind, legend, names_and_looks, styled
from projectlib.runs.load import load
from projectlib.runs.run import Folders, Run
from projectlib.sweeps.experiments import ROOT, Results
from projectlib.training.probes import settle
from projectlib.training.tasks import load_dataset

NUM_TRAINING = 10_000  # samples that a probe is fitted to
RIDGE = 1e-3  # relative to the mean square of an activation


def linear_probes(folders: Folders | None, axes: np.ndarray) -> None:
    """Test accuracy of a linear probe of every hidden layer, mean and sd over models; a panel a depth."""
    runs, by_depth = network_runs(folders), defaultdict(list)
    axes = np.atleast_1d(axes)
    for run in runs:
        by_depth[len(run.get("model.features"))].append(run)
    for ax, depth in zip(axes, sorted(by_depth), strict=False):
        draw_depth(ax, by_depth[depth])
        ax.set(title=f"{depth} hidden layers", xlabel="hidden layer")
        ax.locator_params("x", integer=True)
    np.atleast_1d(axes)[0].set_ylabel("accuracy of a linear probe (%)")
    legend(np.atleast_1d(axes)[-1])
    figure_title(
        np.atleast_1d(axes)[0].figure, f"What each layer tells of the class, {conditions(network_runs(folders))}"
    )


def draw_depth(ax: Axes, runs: list[Run]) -> None:
    runs = sorted(runs, key=kind)
    for run, (name, look) in zip(runs, names_and_looks(runs), strict=True):
        accuracy = 100 * probe_run(run)
        layers = np.arange(1, accuracy.shape[1] + 1)
        sd = accuracy.std(0, ddof=1) if len(accuracy) > 1 else None
        ax.errorbar(layers, accuracy.mean(0), sd, **look._asdict(), capsize=2, elinewidth=0.8, label=name)


def probe_run(run: Run) -> np.ndarray:
    """(num_models, hidden layers) test accuracy of ridge regressions from a layer's activities to one-hot labels."""
    trained = load(run.folder)
    dataset = load_dataset(trained.config)
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


if __name__ == "__main__":
    with styled():
        figure, axes = new_figure(columns=3, width=3.6)
        linear_probes(Results().runs("table/depth"), axes)
        print(f"drawn: {save(figure, ROOT / 'docs', 'depth', types=['png'])[0]}")
