"""Feedback alignment: back-propagation whose error goes back through fixed random weights."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy, linear
from torch.overrides import TorchFunctionMode

from projectlib.errors import UserError
from projectlib.models.network import Network, Parameters, lecun_normal_
from projectlib.rules.rule import Rule, TrainingState, Update
from projectlib.values import is_number, require

MAPS = (linear, conv2d)


class FeedbackAlignment(Rule):
    """Back-propagation with a fixed random matrix in the place of each transpose (Lillicrap et al. 2016)::

        a_l = W_l h_l + b_l,   delta_l = f'(a_l) xi_l,   xi_{l-1} = B_l' delta_l,   dW_l = -eta delta_l h_l'

    from ``xi = softmax(logits) - y`` of the readout on; f is all of a layer that follows its affine map (relu, norm,
    pooling).  Of convolutions B is a kernel.  B is drawn as W is, once for each model, and kept.

    scale: of B, in units of W's own.  accumulate: samples run with the same weights, whose mean gradient makes
    one update.  Raises UserError for invalid values, and for a layer whose weights belong to other maps.
    """

    transports = "errors, through fixed random weights"
    kernel = "feedback-alignment"

    def __init__(self, scale: float = 1.0, accumulate: int = 1):
        require(is_number(scale) and scale > 0, "rule.scale", scale, "a number above 0, the scale of random feedback")
        self.scale = scale
        self.make_blocks(accumulate)
        self.window = accumulate

    def rule_state(self, network: Network, x: Tensor, y: Tensor, generator: torch.Generator) -> list[dict[str, Tensor]]:
        """B of every map but that of the input, by layer and the name of the weight in whose place it is."""
        return [
            {name: self.scale * lecun_normal_(torch.empty_like(weight), generator) for name, weight in maps.items()}
            for maps in maps_that_send_back(network, x)
        ]

    def __call__(
        self, network: Network, parameters: Parameters, state: TrainingState, x: Tensor, y: Tensor, context: Any
    ) -> Update:
        def loss(p: Parameters):
            h, outputs, layers = x, [], []
            for index, (weights, u, matrices) in enumerate(zip(p, state.layers, state.rule, strict=True)):
                with Feedback([(weights[name], matrix) for name, matrix in matrices.items()]):
                    h, u = network.layer(index)(weights, h, u)
                outputs.append(h)
                layers.append(u)
            return cross_entropy(h, y), (outputs, tuple(layers))

        gradients, (outputs, layers) = torch.func.grad(loss, has_aux=True)(parameters)
        return Update(gradients, TrainingState(layers, state.rule), outputs)


def maps_that_send_back(network: Network, x: Tensor) -> Parameters:
    """Weights of every layer by name, but vectors, and maps of the input: nothing is sent back through these.

    x: (N, ...), what the network is run on to see.  Raises UserError where one is not, as it is, that of a linear map
    or convolution; in the first layer, where it may read the input, it is left alone.
    """
    parameters = [{name: p.requires_grad_() for name, p in layer.items()} for layer in network.split_parameters()]
    with torch.enable_grad(), Used() as used:
        network.run(parameters, network.initial_state(len(x)), x)
    maps = [{name: weight for name, weight in layer.items() if weight.ndim > 1} for layer in parameters]
    maps[0] = {name: weight for name, weight in maps[0].items() if any(weight is one for one in used.weights)}
    for index, (layer, weights) in enumerate(zip(network.layers, maps, strict=True)):
        for name, weight in weights.items():
            if not any(weight is one for one in used.weights):
                owner = type(layer.get_submodule(name.rpartition(".")[0])).__name__
                raise UserError(
                    f"layer {index} has {name} of a {owner}, which no linear map or convolution uses as it is, so that "
                    "no error can be sent back; expected torch.nn.Linear or torch.nn.Conv2d, or another rule, such as "
                    "rule=direct-feedback-alignment"
                )
    return maps


class Used(TorchFunctionMode):
    """While it is active, notes the weights of linear maps and convolutions of what depends on other weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function in MAPS:
            h: Any = arguments[0] if arguments else (options or {}).get("input")
            if h.requires_grad:
                self.weights.append(weight_of(arguments, options or {}))
        return function(*arguments, **(options or {}))


def weight_of(arguments: Any, options: dict[str, Any]) -> Any:
    """The second argument of a call, by place or by name."""
    return arguments[1] if len(arguments) > 1 else options.get("weight")


class Feedback(TorchFunctionMode):
    """While it is active, what reaches the output of a linear map goes back to its input through another matrix.

    matrices: pairs of a weight and what stands for it on the way back.
    """

    def __init__(self, matrices: list[tuple[Tensor, Tensor]]):
        super().__init__()
        self.matrices = matrices

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        weight = weight_of(arguments, options)
        matrix = next((b for of, b in self.matrices if of is weight), None)
        if function not in MAPS or matrix is None:
            return function(*arguments, **options)
        names = ("input", "weight", "bias")
        h, _, bias = (arguments[i] if i < len(arguments) else options.get(name) for i, name in enumerate(names))
        how = {name: value for name, value in options.items() if name not in names}
        sent_back = function(h, matrix, None, *arguments[3:], **how)
        return function(h.detach(), weight, bias, *arguments[3:], **how) + (sent_back - sent_back.detach())
