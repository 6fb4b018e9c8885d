"""What memories share: a sample is run once, and of a layer of images they see blocks."""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from projectlib.modulators.modulator import Modulator, Sample
from projectlib.values import is_count, require

BLOCKS_HORIZON = 1000  # samples over which the mean and the scale of blocks are taken


class Blocks(NamedTuple):
    """What is known of a layer's blocks: mean (d,), scale () of squared distances from it, count () of the samples so
    far, int64; and what the memory of them remembers.
    """

    mean: Tensor
    scale: Tensor
    count: Tensor
    memory: Any


class Memory(Modulator):
    """Supplies xi (d,) from what it remembers of a layer's activations z (d,), of which it runs no sample again.

    A subclass says what is remembered before the first sample (``empty``), and reads and then writes it (``supply``).
    For monitoring only, it also has ``objective``, which its signal descends, and ``of_classes``, what it learnt.

    Of images z (H, W, C) a memory sees X, the means over grid x grid blocks, d = grid^2 C numbers.  They are
    normalised to mean 0 and mean square 1, which layer norm gives the numbers of a place but not means over places::

        s  <- s + r (|X - mu|^2 - s)
        z   = sqrt(d) (X - mu) / sqrt(s)
        mu <- mu + r (X - mu)               r = max(1 / T, 1 / t)

    with T = 1000 samples.  mu is 0 before the first, so that s, which begins with |X|^2, is not 0.  xi of a block is
    that of each of its places.

    compares_inputs: whether inputs are among what it keeps of samples.
    grid: blocks along each side.  Raises UserError unless it is a whole number of at least 1.
    """

    compares_inputs: bool = False

    def __init__(self, grid: int = 2):
        require(is_count(grid), "modulator.grid", grid, "a whole number of at least 1, blocks along a side of an image")
        self.grid = grid

    @abstractmethod
    def empty(self, sample: Sample) -> Any:
        """What is remembered before the first sample, a pytree.  sample: zeros."""

    @abstractmethod
    def supply(self, sample: Sample, memory: Any) -> tuple[Tensor, Any]:
        """(xi of the shape of z, what is remembered from now on)."""

    @abstractmethod
    def objective(self, samples: Sample) -> Tensor:
        """What the signal descends, from samples (n, ...) that are all at hand.

        Of covariances and the delta rule its gradient is the settled signal; other signals leave out how z moves class
        means, or is a neighbour of other samples.
        """

    @abstractmethod
    def of_classes(self, memory: Any) -> Tensor:
        """What it has learnt of each class: a direction among the activations for each, (num_classes, d)."""

    def initial_state(self, sample: Sample, generator: torch.Generator) -> Any:
        if sample.z.ndim != 3:
            return self.empty(sample)
        z = self.averaged(sample.z)
        memory = self.empty(sample._replace(z=z))
        return Blocks(torch.zeros_like(z), z.new_zeros(()), torch.zeros((), dtype=torch.int64), memory)

    def __call__(self, sample: Sample, state: Any, window_signal: Tensor | None) -> tuple[Tensor, Any]:
        if sample.z.ndim != 3:
            return self.supply(sample, state)
        height, width, _ = sample.z.shape
        xi, state = self.supply_blocks(sample._replace(z=self.averaged(sample.z)), state)
        rows, columns = (block_of_place(size, self.grid, xi.device) for size in (height, width))
        return xi.reshape(self.grid, self.grid, -1)[rows][:, columns], state

    def supply_blocks(self, sample: Sample, state: Blocks) -> tuple[Tensor, Blocks]:
        """(xi (d,) of blocks, what is remembered from now on) of a sample whose z are means over blocks, (d,)."""
        z, state = self.scaled(sample.z, state)
        xi, memory = self.supply(sample._replace(z=z), state.memory)
        return xi, state._replace(memory=memory)

    def recall(self, sample: Sample, state: Any) -> tuple[Tensor, Tensor]:
        """What it sees of a sample, (d,), and the signal to that, (d,); nothing is remembered."""
        z, memory = sample.z.flatten(), state
        if sample.z.ndim == 3:
            z, (*_, memory) = self.scaled(self.averaged(sample.z), state)
        return z, self.supply(sample._replace(z=z), memory)[0]

    def remembered(self, state: Any) -> Any:
        """The part of a state that ``supply`` reads."""
        return state.memory if isinstance(state, Blocks) else state

    def scaled(self, x: Tensor, state: Blocks) -> tuple[Tensor, Blocks]:
        """Means over blocks x (d,) as the memory sees them, (d,), and their mean and scale from now on."""
        count = state.count + 1
        rate, deviation = 1 / count.to(x.dtype).clamp(max=BLOCKS_HORIZON), x - state.mean
        scale = state.scale + rate * (deviation.square().sum() - state.scale)
        smallest = len(x) * torch.finfo(x.dtype).tiny  # of a layer that was silent until now: 0, not infinity times 0
        seen = (len(x) / scale.clamp(min=smallest)).sqrt() * deviation
        return seen, Blocks(state.mean + rate * deviation, scale, count, state.memory)

    def averaged(self, z: Tensor) -> Tensor:
        """Means over blocks of z (H, W, C), channel by channel: (grid^2 C,)."""
        height, width, channels = z.shape
        rows, columns = (block_means(size, self.grid, z) for size in (height, width))
        return (columns @ (rows @ z.reshape(height, -1)).reshape(self.grid, width, channels)).flatten()


def block_of_place(size: int, grid: int, device: torch.device) -> Tensor:
    """Which of ``grid`` blocks, about equally long, each of ``size`` places along a side is in, (size,) int64."""
    return torch.arange(size, device=device) * grid // size


def block_means(size: int, grid: int, like: Tensor) -> Tensor:
    """(grid, size), what turns ``size`` places along a side into the means of their blocks; 0 for an empty block."""
    is_in = block_of_place(size, grid, like.device) == torch.arange(grid, device=like.device)[:, None]
    return is_in.to(like.dtype) / is_in.sum(1, keepdim=True).clamp(min=1)
