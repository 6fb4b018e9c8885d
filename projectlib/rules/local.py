"""Layer-local learning: every hidden layer by itself, the readout by its cross-entropy."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from projectlib.errors import UserError
from projectlib.models.network import Network, Parameters
from projectlib.rules.rule import Rule, TrainingState, Update


class Hidden(NamedTuple):
    """One hidden layer of one model, as its rule sees it before the update.

    index: 0 for the first.  network: all of it, for what a rule wants to know of its shape.  parameters: of this layer.
    x: (N, ...) the network's input.  h: (N, ...) what the layer receives, which counts as constant.
    u: its state, a pytree; () for a layer without one.  y: (N, num_classes) one-hot labels.
    readout_error: (N, num_classes) gradient of each sample's cross-entropy with respect to its logits,
        softmax(logits) - y; None unless the rule ``needs_readout_error``.
    """

    index: int
    network: Network
    parameters: dict[str, Tensor]
    x: Tensor
    h: Tensor
    u: Any
    y: Tensor
    readout_error: Tensor | None = None

    def run(self) -> tuple[Tensor, Any]:
        """(z, new u) of the layer."""
        return self.network.layer(self.index)(self.parameters, self.h, self.u)

    def pullback(self) -> tuple[Tensor, Any, Callable[[Tensor], dict[str, Tensor]]]:
        """(z, new u, and what turns a gradient with respect to z into that of the layer's own parameters)."""
        layer = self.network.layer(self.index)
        z, pull_back, u = cast(tuple, torch.func.vjp(lambda p: layer(p, self.h, self.u), self.parameters, has_aux=True))
        return z, u, lambda signal: pull_back(signal)[0]


class HiddenUpdate(NamedTuple):
    """What a local rule makes of a hidden layer: gradients by name, activations z (N, ...), the new u and memory."""

    gradients: dict[str, Tensor]
    z: Tensor
    u: Any
    memory: Any


class LocalRule(Rule):
    """Runs a network layer by layer; each layer's input counts as constant, so no error crosses layers.

    The readout descends the mean cross-entropy of the whole window.  What a hidden layer descends is a
    subclass's to say, in ``update_hidden``.

    needs_readout_error: whether hidden updates see the error of the readout: the network is then run once more,
        before they are made.
    """

    sliding = True
    needs_readout_error: bool = False

    def hidden_state(self, hidden: Hidden, z: Tensor, generator: torch.Generator) -> Any:
        """What the rule remembers of one hidden layer, a pytree; as ``rule_state``.  z: (N, ...) of the layer."""
        return ()

    def readout_state(self, h: Tensor, u: Any, y: Tensor) -> Any:
        """What the rule remembers of the readout, a pytree.  h, u, y: zeros of what it receives, as in ``Hidden``."""
        return ()

    @abstractmethod
    def update_hidden(self, hidden: Hidden, memory: Any, context: Any) -> HiddenUpdate:
        """The update of one hidden layer.  memory: what ``hidden_state``, then the last update, returned."""

    def update_readout(
        self, layer: Callable, parameters: dict[str, Tensor], h: Tensor, u: Any, y: Tensor, memory: Any
    ) -> tuple[dict[str, Tensor], Tensor, Any, Any]:
        """(gradients, logits, new u, new memory) of the last layer, under the mean cross-entropy of the window."""

        def loss(p):
            logits, new_u = layer(p, h, u)
            return cross_entropy(logits, y), (logits, new_u)

        gradients, (logits, u) = torch.func.grad(loss, has_aux=True)(parameters)
        return gradients, logits, u, memory

    def rule_state(self, network: Network, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple:
        """What is remembered of every layer, the readout last.  Raises UserError for images with channels first."""
        parameters, layers = network.split_parameters(), network.initial_state(len(x))
        outputs, _ = network.run(parameters, layers, x)
        check_channels(parameters, outputs)
        hidden = (
            self.hidden_state(Hidden(index, network, parameters[index], x, h, layers[index], y), z, generator)
            for index, (h, z) in enumerate(zip([x, *outputs], outputs[:-1], strict=False))
        )
        return *hidden, self.readout_state([x, *outputs][-2], layers[-1], y)

    def __call__(
        self, network: Network, parameters: Parameters, state: TrainingState, x: Tensor, y: Tensor, context: Any
    ) -> Update:
        error = None
        if self.needs_readout_error:
            outputs, _ = network.run(parameters, state.layers, x)
            error = outputs[-1].softmax(-1) - y
        h, updates = x, []
        *memories, of_readout = state.rule
        for index, memory in enumerate(memories):
            hidden = Hidden(index, network, parameters[index], x, h, state.layers[index], y, error)
            updates.append(self.update_hidden(hidden, memory, context))
            h = updates[-1].z
        gradient, logits, u, of_readout = self.update_readout(
            network.layer(-1), parameters[-1], h, state.layers[-1], y, of_readout
        )
        return Update(
            [*(update.gradients for update in updates), gradient],
            TrainingState((*(update.u for update in updates), u), (*(update.memory for update in updates), of_readout)),
            [*(update.z for update in updates), logits],
        )


def check_channels(parameters: Parameters, outputs: list[Tensor]) -> None:
    """Raises UserError where a layer's images have first, and not last, the channels that a convolution in it makes."""
    for index, (layer, z) in enumerate(zip(parameters, outputs, strict=True)):
        channels = [len(weight) for weight in layer.values() if weight.ndim == 4]
        if z.ndim == 4 and z.shape[1] in channels and z.shape[-1] not in channels:
            raise UserError(
                f"layer {index} returns images of shape {tuple(z.shape[1:])}; expected its {channels[-1]} channels "
                "last, (height, width, channels), as rules and memories read them: z.permute(0, 2, 3, 1)"
            )
