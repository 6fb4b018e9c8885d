"""The baseline: gradient descent on the cross-entropy through all layers."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from projectlib.models.network import Network, Parameters
from projectlib.rules.rule import Rule, TrainingState, Update


class Backprop(Rule):
    """Mean cross-entropy of a plain batch, through all layers; a layer's old state counts as constant.

    accumulate: samples whose mean gradient makes one update, see ``Rule.make_blocks``.
    """

    transports = "errors, through the transposed weights"
    kernel = "backprop"

    def __init__(self, accumulate: int = 1):
        self.make_blocks(accumulate)

    def __call__(
        self, network: Network, parameters: Parameters, state: TrainingState, x: Tensor, y: Tensor, context: Any
    ) -> Update:
        def loss(p):
            outputs, layers = network.run(p, state.layers, x)
            return cross_entropy(outputs[-1], y), (outputs, layers)

        gradients, (outputs, layers) = torch.func.grad(loss, has_aux=True)(parameters)
        return Update(gradients, TrainingState(layers, state.rule), outputs)
