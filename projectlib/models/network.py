"""A network as a chain of layers that can be run, and trained, one at a time."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from projectlib.values import is_count, require

EPSILON = 1e-6  # of every layer norm

Parameters = list[dict[str, Tensor]]  # one dictionary of tensors per layer
State = tuple[Any, ...]  # one state per layer, a pytree of tensors; () for a layer without one


class DynamicLayer(nn.Module, ABC):
    """A layer with a state u: ``forward(h, u) -> (z, u)``.

    u is a pytree: a tensor, or tensors in a tuple, named tuple, list or dictionary, each with one row per sample
    of the window.
    """

    @abstractmethod
    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Any:
        """The state before the first time step, (batch_size, ...) each, on the device of the parameters.

        generator: of one model, on the CPU, for a state that is random; None asks for the state at rest, from which
        models are evaluated.
        """


class Network(nn.Module):
    """Hidden layers and, last, a readout.

    layers: modules that map (N, ...) to (N, ...), or ``DynamicLayer``s.  The output of a hidden layer is what a
    local rule modulates and what the next layer receives; the output of the last layer is the logits
    (N, num_classes).  Images between layers have channels last, (N, height, width, channels).  Any sequence of
    modules will do, as long as no module keeps hidden state of its own (dropout and batch norm do).

    num_timesteps: how many time steps a window is presented for, with an update at each; 1 without dynamics.
    Raises UserError unless it is a count, and ValueError without layers.
    """

    def __init__(self, *layers: nn.Module, num_timesteps: int = 1):
        super().__init__()
        require(is_count(num_timesteps), "num_timesteps", num_timesteps, "a whole number of at least 1")
        self.num_timesteps = num_timesteps
        if not layers:
            raise ValueError("a Network needs at least a readout layer, but got no layer")
        self.layers = nn.ModuleList(layers)

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> State:
        """The state of every layer for windows or batches of batch_size samples; at rest without a generator."""
        return tuple(
            layer.initial_state(batch_size, generator) if isinstance(layer, DynamicLayer) else ()
            for layer in self.layers
        )

    def split_parameters(self) -> Parameters:
        """The network's own parameters as plain tensors, one dictionary per layer."""
        return [{name: p.detach() for name, p in layer.named_parameters()} for layer in self.layers]

    def layer(self, index: int) -> Callable:
        """Layer ``index`` as a pure function ``(parameters, h, u) -> (z, u)`` of tensors given from outside."""
        module = self.layers[index]
        if isinstance(module, DynamicLayer):
            return lambda parameters, h, u: functional_call(module, parameters, (h, u))
        return lambda parameters, h, u: (functional_call(module, parameters, (h,)), u)

    def run(self, parameters: Parameters, state: State, x: Tensor) -> tuple[list[Tensor], State]:
        """All layers in turn, one time step.

        parameters: one dictionary per layer.  state: of every layer.  x: (N, ...).
        Returns every layer's output, (N, ...) each, the logits (N, num_classes) last, and the new state.
        """
        outputs, new_state = [], []
        for index, (p, u) in enumerate(zip(parameters, state, strict=True)):
            x, u = self.layer(index)(p, x, u)
            outputs.append(x)
            new_state.append(u)
        return outputs, tuple(new_state)

    def predict(self, parameters: Parameters, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of x (N, ...), from rest: the mean over the second half of the time steps."""
        state, logits = self.initial_state(len(x)), []
        for _ in range(self.num_timesteps):
            outputs, state = self.run(parameters, state, x)
            logits.append(outputs[-1])
        return torch.stack(logits[self.num_timesteps // 2 :]).mean(0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of x (N, ...): ``predict`` with the network's own parameters."""
        return self.predict(self.split_parameters(), x)


def check_features(features: Any) -> Sequence[int]:
    """Widths of hidden layers.  Raises UserError unless they are whole numbers of at least 1."""
    is_valid = isinstance(features, Sequence) and not isinstance(features, str) and all(map(is_count, features))
    require(is_valid, "model.features", features, "a list of whole numbers of at least 1")
    return features


def normalized_relu(a: Tensor) -> Tensor:
    """``LN(relu(a))`` over the last dimension of a, without scale and bias, epsilon 1e-6."""
    return nn.functional.layer_norm(a.relu(), a.shape[-1:], eps=EPSILON)


@torch.no_grad()
def lecun_normal_(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill (out, in, ...) in place: truncated normal of variance 1/fan_in, cut at two sd of the uncut normal."""
    sd = 1 / math.sqrt(weight[0].numel()) / 0.87962566103423978  # sd of a unit normal cut at +-2
    return nn.init.trunc_normal_(weight, std=sd, a=-2 * sd, b=2 * sd, generator=generator)


def affine(num_in: int, num_out: int, generator: torch.Generator) -> nn.Linear:
    """A dense map with LeCun normal weights and zero biases."""
    layer = cast(nn.Linear, nn.utils.skip_init(nn.Linear, num_in, num_out))
    lecun_normal_(layer.weight, generator)
    nn.init.zeros_(layer.bias)
    return layer
