"""A data set in memory: checked once, cut to size, moved to a device."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from projectlib.data.augmentation import Augmentation
from projectlib.errors import UserError

VALIDATION_SEED = 0  # the same samples validate whatever the seed of a run


class Split(NamedTuple):
    """inputs: (n, ...) float32, contiguous.  labels: (n,) int64, from 0 to the number of classes - 1."""

    inputs: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> "Split":
        """The same samples on a device."""
        return Split(self.inputs.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, test and perhaps validation samples, already normalised.

    augmentation: for training only.  Raises UserError if a split is empty, of another shape or type than
    ``Split`` promises, holds NaN or infinity, or has labels that are out of range.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    augmentation: Augmentation | None = None
    validation: Split | None = None

    def __post_init__(self):
        if self.num_classes < 2:
            raise UserError(f"data {self.name!r} has {self.num_classes} class; expected 2 or more to tell apart")
        for key, split in self.splits.items():
            problem = _problem(split, self.train.inputs.shape[1:], self.num_classes)
            if problem:
                raise UserError(f"data {self.name!r}, {key} samples: {problem}")
        if self.augmentation and (len(self.input_shape), len(self.augmentation.fill)) != (3, *self.input_shape[:1]):
            raise UserError(
                f"data {self.name!r}: augmentation of {len(self.augmentation.fill)} channels for samples of shape "
                f"{self.input_shape}; expected images (channels, height, width): leave it out or change its fill"
            )

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by name."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {key: split for key, split in splits.items() if split is not None}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample; (C, H, W) for images."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set on a device."""
        return replace(self, **{key: split.to(device) for key, split in self.splits.items()})


def prepare(dataset: Dataset, limit: int | None = None, validation: float = 0.0) -> Dataset:
    """Keep the first ``limit`` training samples, then hold a part of these out for validation.

    limit: training samples to keep, None for all.  validation: fraction in [0, 1), chosen by a permutation that
    no seed changes; 0 for none.  The test samples stay as they are.
    Raises UserError for a limit that is no number of samples, or a fraction that leaves a split empty.
    """
    train = dataset.train
    if limit is not None:
        available = len(train.labels)
        if type(limit) is not int or not 1 <= limit <= available:
            raise UserError(
                f"data.limit is {limit!r}; expected a whole number from 1 to the {available} training samples of "
                f"{dataset.name}, or null for all"
            )
        train = Split(train.inputs[:limit].clone(), train.labels[:limit].clone())  # views would keep all in memory
    if type(validation) not in (int, float) or not 0 <= validation < 1:
        raise UserError(f"data.validation is {validation!r}; expected a fraction from 0 to below 1, such as 0.1")
    if validation == 0:
        return replace(dataset, train=train)
    if dataset.validation is not None:
        raise UserError(f"data.validation is {validation}, but {dataset.name} has validation samples: set it to 0")
    total = len(train.labels)
    count = round(validation * total)
    if not 1 <= count < total:
        raise UserError(
            f"data.validation is {validation}, {count} of {total} training samples; expected a fraction that "
            "leaves at least one to train and one to validate on"
        )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(VALIDATION_SEED))
    held_out, kept = (
        Split(*(tensor[part.to(tensor.device)] for tensor in train)) for part in order.split([count, total - count])
    )
    return replace(dataset, train=kept, validation=held_out)


def _problem(split: Split, shape: torch.Size, num_classes: int) -> str | None:
    """What is wrong with a split, in words that end a sentence, or None."""
    inputs, labels = split
    if len(inputs) == 0:
        return "there are none; expected at least one"
    if inputs.dtype != torch.float32 or labels.dtype != torch.int64:
        return f"inputs are {inputs.dtype}, labels {labels.dtype}; expected torch.float32 and torch.int64"
    if labels.shape != inputs.shape[:1]:
        return f"labels are of shape {tuple(labels.shape)}; expected one label for each of {len(inputs)} inputs"
    if not shape or inputs.shape[1:] != shape:
        expected = tuple(shape) or "at least one dimension"
        return f"one is of shape {tuple(inputs.shape[1:])}; expected that of a training sample, {expected}"
    if not inputs.is_contiguous():
        return "inputs are not contiguous in memory; expected them to be: call contiguous()"
    low, high = (int(label) for label in labels.aminmax())
    if low < 0 or high >= num_classes:
        return f"labels go from {low} to {high}; expected 0 to {num_classes - 1}"
    # NaN passes through aminmax, which needs no copy of the inputs and a fiftieth of the time of isfinite
    if not all(extreme.isfinite() for extreme in inputs.aminmax()):
        bad = inputs.isfinite().logical_not().flatten(1)
        rows = bad.any(1).nonzero()
        return (
            f"{int(bad.sum())} values in {len(rows)} samples are NaN or infinite, the first in sample "
            f"{int(rows[0])}; expected finite numbers: repair or leave out these samples"
        )
    return None
