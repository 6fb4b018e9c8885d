"""Layer-local learning: every hidden layer by itself, the readout by its cross-entropy."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from projectlib.models.network import Network, Parameters, State


class Update(NamedTuple):
    """What a rule makes of one window (or of one time step of it).

    gradients: one dictionary a layer, as the parameters; empty for a layer that is left alone.
    state: every layer's state after the time step.  outputs: (N, ...) of every layer before the update, the
    logits (N, num_classes) last.
    """

    gradients: Parameters
    state: State
    outputs: list[Tensor]


class Rule(Protocol):
    """The interface of a rule.

    sliding: True for windows that slide by one sample, False for plain batches.
    trains_hidden: whether hidden layers learn, or only the readout.
    """

    sliding: bool
    trains_hidden: bool

    def initial_state(self, network: Network, x: Tensor, y: Tensor) -> State:
        """The state of every layer of one model before the first window, which is of the shapes of x and y."""

    def prepare(self, x: Tensor, y: Tensor) -> Any:
        """What all models and all time steps share for one window: x (N, ...) inputs, y (N, classes) one-hot."""

    def __call__(
        self, network: Network, parameters: Parameters, state: State, x: Tensor, y: Tensor, context: Any
    ) -> Update:
        """The gradients of one model; ``context`` is what ``prepare`` returned."""


class LocalRule(ABC):
    """Runs a network layer by layer; each layer's input counts as constant, so no error crosses layers.

    The readout descends the mean cross-entropy of the whole window.  What a hidden layer descends is a
    subclass's to say, in ``update_hidden``.
    """

    sliding = True
    trains_hidden = True

    def initial_state(self, network: Network, x: Tensor, y: Tensor) -> State:
        return network.initial_state(len(x))

    def prepare(self, x: Tensor, y: Tensor) -> Any:
        return ()

    @abstractmethod
    def update_hidden(
        self, layer: Callable, parameters: dict[str, Tensor], h: Tensor, u: Any, context: Any
    ) -> tuple[dict[str, Tensor], Tensor, Any]:
        """(gradients, z, new u) of a hidden layer ``layer(parameters, h, u) -> (z, u)``."""

    def __call__(
        self, network: Network, parameters: Parameters, state: State, x: Tensor, y: Tensor, context: Any
    ) -> Update:
        gradients, new_state, outputs = [], [], []
        h = x
        for index, (p, u) in enumerate(zip(parameters[:-1], state[:-1], strict=True)):
            gradient, h, u = self.update_hidden(network.layer(index), p, h, u, context)
            gradients.append(gradient)
            new_state.append(u)
            outputs.append(h)
        gradient, logits, u = update_readout(network.layer(-1), parameters[-1], h, state[-1], y)
        return Update([*gradients, gradient], (*new_state, u), [*outputs, logits])


def update_readout(layer: Callable, parameters: dict[str, Tensor], h: Tensor, u: Any, y: Tensor):
    """(gradients, logits, new u) of the last layer under the mean cross-entropy of the window."""

    def loss(p):
        logits, new_u = layer(p, h, u)
        return cross_entropy(logits, y), (logits, new_u)

    gradient, (logits, u) = torch.func.grad(loss, has_aux=True)(parameters)
    return gradient, logits, u


class Frozen(LocalRule):
    """The control: hidden layers keep their random weights, only the readout learns."""

    trains_hidden = False

    def update_hidden(self, layer, parameters, h, u, context):
        z, u = layer(parameters, h, u)
        return {}, z, u
