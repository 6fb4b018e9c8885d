"""Could any linear readout of a random reservoir supply the modulatory signal?

    python -m benchmarks.best_readout --data path/to/data     XOR and MNIST; build/bench/best-readout.png

Samples with random activations are presented one after the other, as train-reservoir.py does; ridge regression from the
reservoir's rates at a sample's last time step to the signal of its window is the best that any local rule for the
readout could reach.  Its strength and its error are those on other samples, with other activations (XOR's are drawn
anew from 900 points), the error over the variance of the signal: 1 is what a constant reaches.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from projectlib.data import Split, mnist, xor
from projectlib.models import Reservoir
from projectlib.plotting.page import new_figure, save
from projectlib.plotting.style import SEQUENCE, legend, styled
from projectlib.rules import Delta

WINDOWS = (2, 3, 4, 6, 10)
GAMMA, SIGMA = 2.0, 0.5
NUM_UNITS, NUM_TIMESTEPS, ZDIM = 2000, 20, 10
NUM_SAMPLES = {"train": 3000, "validation": 500, "test": 500}
STRENGTHS = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4)


def rates(reservoir: Reservoir, inputs: Tensor) -> Tensor:
    """The units' rates (n, units) at the last time step of each sample of a stream, the readout resting at zero."""
    (weights,) = reservoir.split_parameters()
    u, found = torch.zeros(NUM_UNITS), []
    for sample in inputs:
        current = reservoir.current(weights, sample)
        for _ in range(NUM_TIMESTEPS):
            u, r, _ = reservoir.step(weights, u, current)
        found.append(r)
    return torch.stack(found)


def signals(x: Tensor, y: Tensor, z: Tensor, window: int) -> Tensor:
    """The modulatory signal (n - window + 1, zdim) of every window of a stream."""
    rule = Delta(GAMMA, SIGMA)
    return torch.stack([rule.target(*(a[i - window : i] for a in (x, y, z))) for i in range(window, len(x) + 1)])


def best_readout_error(r: Tensor, target: Tensor) -> float:
    """Error over variance, on the last samples, of ridge regression of target (n, zdim) on r (n, units)."""
    r, target = r.double(), target.double()
    r = torch.cat([r, torch.ones(len(r), 1, dtype=r.dtype)], 1)
    sizes = [len(r) - NUM_SAMPLES["validation"] - NUM_SAMPLES["test"], NUM_SAMPLES["validation"], NUM_SAMPLES["test"]]
    (train, validation, test), targets = r.split(sizes), target.split(sizes)
    gram, moment = train.T @ train, train.T @ targets[0]
    readouts = [torch.linalg.solve(gram + strength * torch.eye(len(gram)), moment) for strength in STRENGTHS]
    chosen = min(readouts, key=lambda w: (validation @ w - targets[1]).square().mean().item())
    return ((test @ chosen - targets[2]).square().mean() / targets[2].var(0, correction=0).mean()).item()


def errors(split: Split, num_classes: int, generator: torch.Generator) -> list[float]:
    """The best readout's error for every window size, on one data set."""
    order = torch.randint(len(split.labels), (sum(NUM_SAMPLES.values()),), generator=generator)
    x, y = split.inputs[order].flatten(1), one_hot(split.labels[order], num_classes).float()
    z = torch.rand(len(order), ZDIM, generator=generator)
    inputs = torch.cat([x, y, z], 1)
    reservoir = Reservoir(inputs.shape[1], ZDIM, NUM_UNITS, 1.2, 0.1, 5e-3, 1e-3, 0, generator)
    r = rates(reservoir, inputs)
    return [best_readout_error(r[window - 1 :], signals(x, y, z, window)) for window in WINDOWS]


@styled()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder that holds MNIST/raw")
    generator = torch.Generator().manual_seed(0)
    figure, ax = new_figure()
    for dataset, look in zip((xor(seed=0), mnist(parser.parse_args().data)), SEQUENCE, strict=False):
        found = errors(dataset.train, dataset.num_classes, generator)
        print(dataset.name, *(f"window {w}: {e:.2f}" for w, e in zip(WINDOWS, found, strict=True)), sep="  ")
        ax.plot(WINDOWS, found, label=dataset.name, **look._asdict())
    ax.axhline(1, color="0.6", linewidth=0.8)
    ax.set(xlabel="samples in a window", ylabel="error over variance, held out", ylim=(0, None), xticks=WINDOWS)
    ax.set_title(f"The best linear readout of a random reservoir\n{NUM_UNITS} units, ridge regression")
    legend(ax)
    print(*save(figure, Path("build/bench"), "best-readout", types=["png"]))


if __name__ == "__main__":
    main()
