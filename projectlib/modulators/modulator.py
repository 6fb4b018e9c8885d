"""What a local rule asks of whoever supplies a hidden layer's modulatory signal."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class Modulator(Protocol):
    """What a local rule asks of a modulator.  What it remembers of a layer is carried from time step to time step."""

    def initial_state(self, num_inputs: int, z_shape: Sequence[int], like: Tensor) -> Any:
        """Of one layer: num_inputs features of [x, y], activations of z_shape; like: a tensor of the right device."""

    def __call__(self, xi: Tensor, newest: tuple[Tensor, Tensor, Tensor], state: Any) -> tuple[Tensor, Any]:
        """The signal that is applied, of the shape of xi, and the new state.

        xi: the signal computed from the window.  newest: its newest x, y and z.
        """
