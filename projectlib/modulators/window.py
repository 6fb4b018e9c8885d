"""The window itself supplies the signal."""

from typing import Any

from torch import Tensor

from projectlib.modulators.modulator import Modulator, Sample


class WindowModulator(Modulator):
    """The signal as it is computed from the window, as if all of its samples were at hand, run with today's weights."""

    needs_window = True
    applies_window_signal = True
    transports = "labels and the input"
    kernel = "window"

    def __call__(self, sample: Sample, state: Any, window_signal: Tensor | None) -> tuple[Tensor, Any]:
        assert window_signal is not None  # as it needs the window
        return window_signal, state
