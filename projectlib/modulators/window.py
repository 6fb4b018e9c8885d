"""The window itself supplies the signal."""

from collections.abc import Sequence

from torch import Tensor


class WindowModulator:
    """The signal as it is computed from the window, as if all of its samples were at hand."""

    def initial_state(self, num_inputs: int, z_shape: Sequence[int], like: Tensor) -> tuple[()]:
        return ()

    def __call__(self, xi: Tensor, newest: tuple[Tensor, Tensor, Tensor], state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return xi, ()
