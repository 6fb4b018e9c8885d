"""The three-factor rule: local input, local activity, and the modulatory signal of the newest sample."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from projectlib.hsic import LABEL_FORMS, check_form, check_objective, kernel_matrix, kernel_row, modulation
from projectlib.modulators import Memory, Modulator, Sample, WindowModulator
from projectlib.rules.local import Hidden, HiddenUpdate, LocalRule
from projectlib.rules.replay import Replay, nothing_to_replay, update_replayed
from projectlib.values import is_count, require


class WindowContext(NamedTuple):
    """What all models share of a window: kernel matrices (N, N) of inputs and labels, and its newest x and y."""

    kx: Tensor
    ky: Tensor
    x: Tensor
    y: Tensor


class BioHSIC(LocalRule):
    """Hidden layers follow the modulatory signal xi at the newest sample::

        dW = -eta xi dz_N/dW        xi supplied by the modulator, dz_N/dW of this layer alone

    xi is pulled back through the layer's norm, relu and affine map onto its own weights; the rest of the window enters
    through xi only, so it is run without a gradient.

    A modulator that needs no window, a memory, makes it a stream: samples are run once each, A of them with the same
    weights, which then make one update of their mean gradient; the memory is read and written at every sample.

    gamma: weight of the label term.  sigmas: bandwidths of x, y and z.  form: of ``hsic.modulation``, the signal
    computed from the window.  modulator: who supplies the signal that is applied; the window's own unless it is given.
    accumulate: A, of a stream.  readout_window: samples (of layers with a state, time steps), the newest among them,
    that the readout of a stream learns from, as they were when they were the newest.

    Raises UserError for invalid values.
    """

    smallest_window = 2
    kernel = "biohsic"
    gamma: float
    sigmas: tuple[float, float, float]
    form: str

    def __init__(
        self,
        gamma: float = 2.0,
        sigmas: Sequence[float] = (1.0, 0.5, 2.0),
        form: str = "published",
        modulator: Modulator | None = None,
        accumulate: int = 1,
        readout_window: int = 1,
    ):
        self.gamma, self.sigmas = check_objective(gamma, sigmas)
        is_modulator = modulator is None or isinstance(modulator, Modulator)
        require(is_modulator, "modulator", modulator, "a Modulator, such as projectlib.modulators.DeltaModulator")
        self.form, self.modulator = check_form(form), modulator or WindowModulator()
        of_labels = self.modulator.applies_window_signal and form in LABEL_FORMS
        self.transports = "labels" if of_labels else self.modulator.transports
        require(is_count(accumulate), "optimizer.accumulate", accumulate, "a whole number of at least 1")
        require(is_count(readout_window), "readout.window", readout_window, "a whole number of at least 1")
        self.streams, self.num_replayed = not self.modulator.needs_window, 0
        if self.streams:
            self.sliding, self.window, self.smallest_window = False, accumulate, 1
            self.num_replayed = readout_window - 1

    @property
    def own_memory(self) -> Memory | None:
        is_all = type(self).hidden_state is BioHSIC.hidden_state  # a subclass may keep more beside it
        return self.modulator if is_all and isinstance(self.modulator, Memory) else None

    def hidden_state(self, hidden: Hidden, z: Tensor, generator: torch.Generator) -> Any:
        return self.modulator.initial_state(Sample(hidden.x[-1], hidden.y[-1], z[-1]), generator)

    def readout_state(self, h: Tensor, u: Any, y: Tensor) -> Any:
        return nothing_to_replay(self.num_replayed, h, u, y) if self.num_replayed else ()

    def prepare(self, x: Tensor, y: Tensor) -> WindowContext | None:
        if self.streams:
            return None
        kx = kernel_matrix(x, self.sigmas[0])
        ky = y @ y.T if self.form in LABEL_FORMS else kernel_matrix(y, self.sigmas[1])
        return WindowContext(kx, ky, x[-1], y[-1])

    def signal(self, z: Tensor, context: WindowContext) -> Tensor:
        """What the window says to the newest sample of activations z (N, ...): the shape of one z."""
        sigma = self.sigmas[2]
        kz = None if self.form in LABEL_FORMS else kernel_row(z, sigma)
        return modulation(context.kx, context.ky, kz, z, self.gamma, sigma, self.form)

    def update_hidden(self, hidden: Hidden, memory: Any, context: WindowContext | None) -> HiddenUpdate:
        if context is None:
            return self.update_from_stream(hidden, memory)
        past, newest = part_of(hidden, slice(None, -1)), part_of(hidden, slice(-1, None))
        past_z, past_u = past.run()
        newest_z, newest_u, pull_back = newest.pullback()
        z = torch.cat([past_z, newest_z])
        xi, memory = self.modulator(Sample(context.x, context.y, z[-1]), memory, self.signal(z, context))
        u = tree_map(lambda *parts: torch.cat(parts), past_u, newest_u)
        return HiddenUpdate(pull_back(xi[None]), z, u, memory)

    def update_from_stream(self, hidden: Hidden, memory: Any) -> HiddenUpdate:
        """The mean over a block's samples of xi dz/dW, each with the memory of those before it."""
        z, u, pull_back = hidden.pullback()
        signals, memory = self.supply(Sample(hidden.x, hidden.y, z), memory)
        return HiddenUpdate(pull_back(signals / len(z)), z, u, memory)

    def supply(self, block: Sample, memory: Any) -> tuple[Tensor, Any]:
        """(xi of the shape of z, the new memory) of a block of samples (A, ...), one after the other."""
        signals = []
        for sample in zip(*block, strict=True):
            xi, memory = self.modulator(Sample(*sample), memory, None)
            signals.append(xi)
        return signals[0][None] if len(signals) == 1 else torch.stack(signals), memory

    def update_readout(
        self, layer: Callable, parameters: dict[str, Tensor], h: Tensor, u: Any, y: Tensor, memory: Any
    ) -> tuple[dict[str, Tensor], Tensor, Any, Any]:
        if not self.num_replayed:
            return super().update_readout(layer, parameters, h, u, y, memory)
        return update_replayed(layer, parameters, Replay(h, u, y), memory)


def part_of(hidden: Hidden, places: slice) -> Hidden:
    """Some places of the window."""
    x, h, u, y = tree_map(lambda rows: rows[places], (hidden.x, hidden.h, hidden.u, hidden.y))
    return hidden._replace(x=x, h=h, u=u, y=y)
