"""The baseline: gradient descent on the cross-entropy through all layers."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from projectlib.models.network import Network, Parameters, State
from projectlib.rules.local import Update


class Backprop:
    """Mean cross-entropy of a plain batch, through all layers; a layer's old state counts as constant."""

    sliding = False
    trains_hidden = True

    def initial_state(self, network: Network, x: Tensor, y: Tensor) -> State:
        return network.initial_state(len(x))

    def prepare(self, x: Tensor, y: Tensor) -> Any:
        return ()

    def __call__(
        self, network: Network, parameters: Parameters, state: State, x: Tensor, y: Tensor, context: Any
    ) -> Update:
        def loss(p):
            outputs, new_state = network.run(p, state, x)
            return cross_entropy(outputs[-1], y), (outputs, new_state)

        gradients, (outputs, new_state) = torch.func.grad(loss, has_aux=True)(parameters)
        return Update(gradients, new_state, outputs)
