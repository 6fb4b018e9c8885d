"""Memories as kernels have them: which arrays and settings of each."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from projectlib.engines.cpu.kernels import hsic as hsic_kernels
from projectlib.engines.cpu.kernels import memories as memory_kernels


class Compiled(NamedTuple):
    """A memory as its kernel has it.

    remembered: the kernel's type.  parts: the tensors of the state that are its arrays, in its order.  settings: of a
    modulator.
    """

    remembered: Any
    parts: Callable[[Any], Sequence[Tensor]]
    settings: Callable[[Any], Any]

    def view(self, state: Any, member: int) -> Any:
        """One member's arrays."""
        return self.remembered(*(part[member].numpy() for part in self.parts(state)))


MEMORIES = {
    "remembered": Compiled(
        memory_kernels.Remembered,
        lambda state: (state.y, state.z),
        lambda modulator: memory_kernels.RememberedSettings(
            hsic_kernels.form_of(modulator.signal), float(modulator.sigmas[2])
        ),
    ),
    "covariance": Compiled(
        memory_kernels.Covariances,
        lambda state: (state.means.z, state.means.y, state.zz, state.yz),
        lambda modulator: memory_kernels.CovarianceSettings(float(modulator.horizon), float(modulator.weight)),
    ),
    "delta": Compiled(
        memory_kernels.Predictor,
        lambda state: (state.means.z, state.means.y, state.q),
        lambda modulator: memory_kernels.DeltaSettings(float(modulator.learning_rate), float(modulator.horizon)),
    ),
    "class-means": Compiled(
        memory_kernels.ClassMeans,
        lambda state: (state,),
        lambda modulator: memory_kernels.ClassMeansSettings(float(modulator.rate), float(modulator.temperature)),
    ),
}
"""By the ``kernel`` of their modulators."""
