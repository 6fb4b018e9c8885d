"""What a local rule asks of whoever supplies a hidden layer's modulatory signal."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """The newest sample of one model.

    x: (...) the network's input.  y: (num_classes,) one-hot.  z: (...) activations of the layer.
    """

    x: Tensor
    y: Tensor
    z: Tensor


class Modulator(ABC):
    """Supplies the signal xi of one hidden layer, sample by sample (of dynamic layers: at every time step).

    Runs under ``torch.vmap`` as a rule does (``projectlib.rules.Rule``): what it remembers is its state.

    needs_window: whether it is told the signal that is computed from a window of samples.  Without it the newest sample
        is run alone.
    applies_window_signal: whether that is what it supplies.
    transports: what has to reach the layer for it, in words, as for a rule.
    num_samples: how many samples it keeps as they were, until which it has nothing to say.
    kernel: the name of compiled code that does the same; not inherited.
    """

    needs_window: bool = False
    applies_window_signal: bool = False
    transports: str = "labels"
    num_samples: int = 0
    kernel: str | None = None

    def initial_state(self, sample: Sample, generator: torch.Generator) -> Any:
        """What it remembers of one layer of one model before the first sample, a pytree of tensors on the CPU.

        sample: zeros of the right shapes and type.  generator: of the model, for all that is random.
        """
        return ()

    @abstractmethod
    def __call__(self, sample: Sample, state: Any, window_signal: Tensor | None) -> tuple[Tensor, Any]:
        """(xi of the shape of z, new state).  window_signal: the window's signal; None unless it ``needs_window``."""
