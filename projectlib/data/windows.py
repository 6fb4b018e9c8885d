"""Windows and batches: which samples a step sees and in which order.

A window holds ``size`` consecutive samples of the shuffled epoch, the newest last, and slides by one; a batch
is a window that moves on by its own size.  All randomness of an epoch is drawn at once, on the CPU, so that it
is the same on every device and an epoch can be repeated from the state of its generator.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from projectlib.data.augmentation import Augmentation
from projectlib.data.dataset import Split
from projectlib.errors import UserError


class Epoch(NamedTuple):
    """Everything random about one epoch.

    order: (n,) int64, a permutation of the training samples.  crops: (steps, size, 2) int64, or (steps, 1, 2)
    where a step's samples share one, and flips: (steps, size) bool, or None without an augmentation.
    """

    order: Tensor
    crops: Tensor | None = None
    flips: Tensor | None = None

    def to(self, device: torch.device | str) -> "Epoch":
        """The same epoch on a device."""
        crops, flips = (None if tensor is None else tensor.to(device) for tensor in (self.crops, self.flips))
        return Epoch(self.order.to(device), crops, flips)


@dataclass(frozen=True)
class Sampler:
    """How an epoch of n samples is cut into steps.

    n: training samples.  size: samples in a window or batch.  sliding: windows that move by one sample, instead
    of batches.  drop_last: leave out a last batch that is smaller.  augmentation: what crops and flips are drawn
    for, if any.  Raises UserError unless 1 <= size <= n.
    """

    n: int
    size: int
    sliding: bool
    drop_last: bool = False
    augmentation: Augmentation | None = None

    def __post_init__(self):
        if type(self.size) is not int or not 1 <= self.size <= self.n:
            raise UserError(
                f"data.batchsize is {self.size!r}; expected a whole number from 1 to the {self.n} training "
                "samples: change data.batchsize, or data.limit and data.validation, which set how many there are"
            )

    @property
    def stride(self) -> int:
        """By how many samples a window moves from step to step."""
        return 1 if self.sliding else self.size

    @property
    def uniform(self) -> bool:
        """Whether all steps have ``size`` samples."""
        return self.sliding or self.drop_last or self.n % self.size == 0

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        whole = (self.n - self.size) // self.stride + 1
        return whole if self.uniform else whole + 1

    def epoch(self, generator: torch.Generator) -> Epoch:
        """Draw an epoch, on the CPU, from a generator of the CPU."""
        order = torch.randperm(self.n, generator=generator)
        if self.augmentation is None:
            return Epoch(order)
        return Epoch(order, *self.augmentation.draw(self.steps, self.size, 1 if self.sliding else self.size, generator))

    def source(self, train: Split) -> Split:
        """What ``gather`` reads from: the training samples themselves, or a padded copy if there are crops."""
        if self.augmentation is None:
            return train
        return Split(self.augmentation.pad(train.inputs), train.labels)

    def window_indices(self, epoch: Epoch, step: int | Tensor) -> Tensor:
        """Indices of the samples of a step, newest last: (size,), or fewer in a last batch.

        step: an int, or an int64 tensor of no dimensions on the device of the epoch, for which all windows must
        be of one size (``uniform``) and which is never read on the host.
        """
        if isinstance(step, int):
            return epoch.order[step * self.stride :][: self.size]
        assert self.uniform, f"a tensor as step needs windows of one size, got {self}"
        return _row(epoch.order.unfold(0, self.size, self.stride), step)


def gather(source: Split, sampler: Sampler, epoch: Epoch, step: int | Tensor) -> tuple[Tensor, Tensor]:
    """Inputs (N, ...) and labels (N,) of a step, on the device; augmented if the sampler says so.

    source: ``sampler.source(train)``, on one device with the epoch.  step: as for ``window_indices``.
    With a tensor as step nothing is read on the host, so a CUDA graph can capture this.
    """
    indices = sampler.window_indices(epoch, step)
    labels = source.labels.index_select(0, indices)
    if sampler.augmentation is None or epoch.crops is None or epoch.flips is None:
        return source.inputs.index_select(0, indices), labels
    crops, flips = (_row(table, step)[: len(indices)] for table in (epoch.crops, epoch.flips))
    return sampler.augmentation.read(source.inputs, indices, crops, flips), labels


def _row(table: Tensor, step: int | Tensor) -> Tensor:
    # table[step] would read a tensor on the host
    return table[step] if isinstance(step, int) else table.index_select(0, step.reshape(1))[0]
