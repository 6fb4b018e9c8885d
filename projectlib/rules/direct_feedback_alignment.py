"""Direct feedback alignment: the readout's error reaches every hidden layer through a matrix of its own."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from projectlib.rules.local import Hidden, HiddenUpdate, LocalRule
from projectlib.rules.seen import seen_by_readout
from projectlib.values import is_number, require


class DirectFeedbackAlignment(LocalRule):
    """A fixed random matrix B projects the readout's error of a sample onto a layer (Nokland 2016)::

        xi = B e,   e = softmax(logits) - y,   dW = -eta xi dz/dW        of this layer alone

    No transpose is used and no error crosses layers; the error itself travels, from the readout to each layer.  Of a
    convolution, B reaches what the next layer reads: its map averaged over 2 x 2 places.

    scale: entries of B have sd scale / sqrt(num_classes).  accumulate: samples run with the same weights, whose mean
    gradient makes one update.  Raises UserError for invalid values.
    """

    sliding = False
    needs_readout_error = True
    transports = "the readout's error"
    kernel = "direct-feedback-alignment"

    def __init__(self, scale: float = 1.0, accumulate: int = 1):
        require(is_number(scale) and scale > 0, "rule.scale", scale, "a number above 0, the scale of random feedback")
        self.scale = scale
        self.make_blocks(accumulate)
        self.window = accumulate

    def hidden_state(self, hidden: Hidden, z: Tensor, generator: torch.Generator) -> Tensor:
        """B', (num_classes, features)."""
        shape = hidden.y.shape[1], seen_by_readout(z).shape[1]
        return self.scale / shape[0] ** 0.5 * torch.randn(shape, generator=generator, dtype=z.dtype)

    def update_hidden(self, hidden: Hidden, memory: Tensor, context: Any) -> HiddenUpdate:
        z, u, pull_back = hidden.pullback()
        assert hidden.readout_error is not None  # as it is needed
        seen, spread = cast(tuple[Tensor, Callable], torch.func.vjp(seen_by_readout, z))
        (xi,) = spread((hidden.readout_error @ memory).reshape(seen.shape))
        return HiddenUpdate(pull_back(xi / len(z)), z, u, memory)
