"""Could any linear readout of a random reservoir supply the modulatory signal?

    python -m benchmarks.best_readout --data path/to/data     XOR and MNIST; build/bench/best-readout.png

Samples with random activations are presented one after the other, as train-reservoir.py does, in many streams at
once.  Ridge regression from the reservoir's rates at a sample's last time step to the signal of its window is the
best that any local rule for the readout could reach, up to what more samples would add.  Its strength and its error
are those in other streams, with other activations (the points of XOR are drawn again from 900, images from 60,000),
the error over the variance of the signal: 1 is what a constant reaches.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import one_hot

from projectlib.data import Split, mnist, xor
from projectlib.models import Reservoir
from projectlib.plotting.page import new_figure, save
from projectlib.plotting.style import SEQUENCE, legend, styled
from projectlib.rules import Delta

WINDOWS = (2, 3, 4, 6, 10)
GAMMA, SIGMA = 2.0, 0.5
NUM_UNITS, NUM_TIMESTEPS, ZDIM = 2000, 20, 10
NUM_STREAMS = {"train": 48, "validation": 6, "test": 6}
LENGTH = 420  # samples of a stream
BEGINNING = 20  # of these samples are left out: the reservoir was at rest
STRENGTHS = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4)


def rates(reservoir: Reservoir, inputs: Tensor) -> Tensor:
    """The units' rates (streams, n, units) at the last time step of each sample of streams inputs (streams, n, ...).

    The readout rests at zero.
    """
    (weights,) = reservoir.split_parameters()
    step = vmap(lambda u, current: reservoir.step(weights, u, current)[:2])
    u, found = torch.zeros(len(inputs), NUM_UNITS), []
    for samples in inputs.unbind(1):
        current = vmap(lambda sample: reservoir.current(weights, sample))(samples)
        for _ in range(NUM_TIMESTEPS):
            u, r = step(u, current)
        found.append(r)
    return torch.stack(found, 1)


def signals(x: Tensor, y: Tensor, z: Tensor, window: int) -> Tensor:
    """The modulatory signal (n - window + 1, zdim) of every window of a stream of n samples."""
    windows = (part.unfold(0, window, 1).movedim(-1, 1) for part in (x, y, z))
    return vmap(Delta(GAMMA, SIGMA).target)(*windows)


def best_readout_error(r: Tensor, target: Tensor) -> float:
    """Error over variance, in the last streams, of ridge regression of target on r, both (streams, n, ...)."""
    r = torch.cat([r, torch.ones(*r.shape[:2], 1)], 2)
    (train, validation, test), targets = (
        [part.flatten(0, 1).double() for part in whole.split([*NUM_STREAMS.values()])] for whole in (r, target)
    )
    gram, moment = train.T @ train, train.T @ targets[0]
    readouts = [torch.linalg.solve(gram + strength * torch.eye(len(gram)), moment) for strength in STRENGTHS]
    chosen = min(readouts, key=lambda w: (validation @ w - targets[1]).square().mean().item())
    return ((test @ chosen - targets[2]).square().mean() / targets[2].var(0, correction=0).mean()).item()


def errors(split: Split, num_classes: int, generator: torch.Generator) -> list[float]:
    """The best readout's error for every window size, on one data set."""
    shape = sum(NUM_STREAMS.values()), LENGTH
    order = torch.randint(len(split.labels), shape, generator=generator)
    x, y = split.inputs[order].flatten(2), one_hot(split.labels[order], num_classes).float()
    z = torch.rand(*shape, ZDIM, generator=generator)
    inputs = torch.cat([x, y, z], 2)
    reservoir = Reservoir(inputs.shape[2], ZDIM, NUM_UNITS, 1.2, 0.1, 5e-3, 1e-3, 0, generator)
    r = rates(reservoir, inputs)[:, BEGINNING:]
    found = []
    for window in WINDOWS:
        target = torch.stack([signals(*stream, window) for stream in zip(x, y, z, strict=True)])
        found.append(best_readout_error(r, target[:, -r.shape[1] :]))
    return found


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
