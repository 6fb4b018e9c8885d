"""Should a memory hold a sample's own earlier time steps while the sample is shown?

    python -m benchmarks.own_time_steps [KEY=VALUE ...]     XOR, leaky integrators, the delta memory and covariances

The memories of ``projectlib.modulators`` are read and written at every time step, so that from its second time step on
a sample meets itself.  Here each is trained as it is, and with a memory that is read as it was when the sample began.
Both run in eager, from the same weights.
"""

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import projectlib
from projectlib.modulators import CovarianceModulator, DeltaModulator, Memory, Sample

NUM_TIMESTEPS = 20  # of a sample, unless training.sample_timesteps says otherwise
SETTINGS = ("data=xor", "nmodels=10", "training.nepochs=4", "training.log_hsic=false", "engine=eager")


class Held(NamedTuple):
    """What is read, what is written, and how many time steps have been written, () int64."""

    read: Any
    written: Any
    count: Tensor


class WithoutOwnSteps(Memory):
    """Before a ``Memory``: supplies the signal from what was remembered when the sample began.

    num_timesteps: of a sample.  The others are the memory's.
    """

    def __init__(self, *settings: Any, num_timesteps: int = NUM_TIMESTEPS, **options: Any):
        super().__init__(*settings, **options)
        self.num_timesteps = num_timesteps

    def empty(self, sample: Sample) -> Held:
        return Held(super().empty(sample), super().empty(sample), torch.zeros((), dtype=torch.int64))

    def supply(self, sample: Sample, memory: Held) -> tuple[Tensor, Held]:
        begins = memory.count % self.num_timesteps == 0
        read = tree_map(lambda new, old: torch.where(begins, new, old), memory.written, memory.read)
        xi, _ = super().supply(sample, read)
        _, written = super().supply(sample, memory.written)
        return xi, Held(read, written, memory.count + 1)


class HeldDelta(WithoutOwnSteps, DeltaModulator):
    """The delta memory as it was when the sample began."""


class HeldCovariance(WithoutOwnSteps, CovarianceModulator):
    """Covariances as they were when the sample began."""


def main(overrides: list[str]) -> None:
    for memory, held in (("delta", HeldDelta), ("covariance", HeldCovariance)):
        name = f"benchmarks.own_time_steps.{held.__name__}"
        others = ["plugins=[benchmarks.own_time_steps]", f"modulator._target_={name}"]
        others.append("+modulator.num_timesteps=${training.sample_timesteps}")
        for words in ([], others):
            run = projectlib.train("train-lif-biohsic", *SETTINGS, f"modulator={memory}", *words, *overrides)
            tested = run.metrics[run.metrics.split == "test"]
            accuracy = tested.groupby("epoch").accuracy
            what = "as it was when the sample began" if words else "with the sample's own time steps"
            for epoch, mean, sd in zip(accuracy.mean().index, accuracy.mean(), accuracy.std(), strict=True):
                print(f"{memory}, {what}: epoch {epoch}, test accuracy {100 * mean:.1f} ± {100 * sd:.1f} %", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
