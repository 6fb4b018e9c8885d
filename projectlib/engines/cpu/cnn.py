"""The CPU engine for convolutional networks under a window: torch's convolutions, one compiled pass between them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.optim import Optimizer

from projectlib.data import Sampler
from projectlib.engines.cpu.kernels import cnn as image_kernels
from projectlib.engines.cpu.kernels.compiler import cached_signatures
from projectlib.engines.cpu.mlp import is_plain
from projectlib.engines.eager import EagerEngine
from projectlib.ensemble import Ensemble
from projectlib.hsic import LABEL_FORMS, modulation_weights
from projectlib.models.cnn import ConvLayer, ImageLayer, PooledReadout, average
from projectlib.models.network import Network, Parameters
from projectlib.rules import BioHSIC, Rule, TrainingState
from projectlib.rules.rule import own_kernel

CONVOLUTION = {
    "kernel_size": (3, 3),
    "padding": (1, 1),
    "stride": (1, 1),
    "dilation": (1, 1),
    "groups": 1,
    "padding_mode": "zeros",
}
"""What kernels know of a convolution."""


class ConvolutionEngine(EagerEngine):
    """Eager's steps of the local rule, with gradients written out, one member after the other.

    The optimizer is torch's own, so that both engines can go on from each other.
    """

    name = "compiled"
    rule: BioHSIC
    worth_compiling = 500  # updates, each of which it makes 5 ms shorter; compiling takes 2 to 3 s

    @staticmethod
    def supports(network: Network, rule: Rule) -> bool:
        """Whether it covers such a network under such a rule."""
        return not rule.streams and is_convolutional(network)

    @staticmethod
    def unsupported(ensemble: Ensemble, rule: Rule, optimizer: Optimizer, sampler: Sampler) -> str | None:
        """What of a task it does not support, in words; None if it supports it."""
        if own_kernel(rule) != "biohsic":
            return f"the rule {type(rule).__name__} on convolutions"
        if rule.form in LABEL_FORMS:
            return f"the signal {rule.form} of a window"
        return None if own_kernel(rule.modulator) == "window" else f"the modulator {type(rule.modulator).__name__}"

    @staticmethod
    def is_compiled(layers: Sequence[type], rule: Rule) -> bool:
        """Whether the cache has the pass, which is the same for any number of layers."""
        return bool(cached_signatures(image_kernels.activate_window))

    def compile(self) -> None:
        self.buffers: dict[int, tuple[Tensor, Tensor]] = {}  # z and signal of each layer, reused: no page faults
        a = torch.zeros(2, 1, 1).numpy()
        image_kernels.activate_window(a, a.copy(), a[0].copy(), a[:, 0, 0], 1.0)

    def advance(self, x: Tensor, y: Tensor, context: Any) -> tuple[Parameters, TrainingState, Tensor]:
        weights = modulation_weights(context.kx, context.ky, self.rule.gamma, self.rule.form)
        images = x.permute(0, 2, 3, 1).contiguous()
        results = [
            self.advance_member(self.ensemble.member(index), images, x, y, weights)
            for index in range(self.ensemble.num_models)
        ]
        gradients, measured = zip(*results, strict=True)
        stacked = [
            {name: stack([layer[name] for layer in layers]) for name in layers[0]}
            for layers in zip(*gradients, strict=True)
        ]
        return stacked, self.state, stack(measured)

    def advance_member(
        self, parameters: Parameters, images: Tensor, x: Tensor, y: Tensor, weights: Tensor
    ) -> tuple[Parameters, Tensor]:
        """One model's gradients and metrics.  images: x with its channels last.  weights: (N,) of the signal."""
        gradients, outputs, h = [], [], images
        layers: list[Any] = [*self.ensemble.network.layers]  # of the classes that it ``supports``
        *hidden, readout = layers
        for index, layer in enumerate(hidden):
            gradient, h = self.update_convolution(index, average(h, layer.pool), parameters[index], weights)
            gradients.append(gradient)
            outputs.append(h)
        gradient = {name: torch.empty_like(parameter) for name, parameter in parameters[-1].items()}
        logits = write_readout_gradients(readout, parameters[-1], h, y, gradient)
        return [*gradients, gradient], self.measure([*outputs, logits], x, y)

    def update_convolution(
        self, index: int, h: Tensor, parameters: dict[str, Tensor], weights: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients and z (N, H, W, channels) of hidden layer ``index``, which receives h (N, C, H, W)."""
        weight, bias = parameters["conv.weight"], parameters["conv.bias"]
        a = conv2d(h, weight, bias, padding=1).permute(0, 2, 3, 1).contiguous()
        if index not in self.buffers:
            self.buffers[index] = torch.empty_like(a), torch.empty_like(a[-1:])
        z, signal = self.buffers[index]
        flat_a, flat_z, newest = a.flatten(1, 2).numpy(), z.flatten(1, 2).numpy(), signal.flatten(0, 2).numpy()
        image_kernels.activate_window(flat_a, flat_z, newest, weights.numpy(), float(self.rule.sigmas[2]))
        gradient = weight_gradient(signal.permute(0, 3, 1, 2), h[-1:], weight)
        return {"conv.weight": gradient, "conv.bias": signal.sum((0, 1, 2))}, z


def is_convolutional(network: Network) -> bool:
    """Whether a network is a chain of convolutions and a readout."""
    types = [type(layer) for layer in network.layers]
    first, *others, last = types if len(types) > 1 else (None, None)
    is_one = first is ImageLayer and not {*others} - {ConvLayer} and last is PooledReadout
    convolutions = [layer.conv for layer in network.layers[:-1]] if is_one else []
    is_known = all(getattr(conv, name, None) == value for conv in convolutions for name, value in CONVOLUTION.items())
    return is_one and is_known and is_plain(network)


def write_readout_gradients(
    layer: PooledReadout, parameters: dict[str, Tensor], h: Tensor, y: Tensor, gradients: dict[str, Tensor]
) -> Tensor:
    """Write the readout's gradients under the mean cross-entropy of h (N, H, W, C); returns its logits."""
    h = layer.flatten(h)
    logits = torch.addmm(parameters["affine.bias"], h, parameters["affine.weight"].T)
    error = (logits.softmax(1) - y) / len(y)
    torch.mm(error.T, h, out=gradients["affine.weight"])
    torch.sum(error, 0, out=gradients["affine.bias"])
    return logits


def weight_gradient(signal: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the weight of a 3 x 3 convolution with padding 1, from that of its output, (N, out, H, W).

    ``torch.nn.grad.conv2d_weight`` takes twice as long here: it stands in a weight of another layout.
    """
    ones, wanted = [1, 1], (False, True, False)  # of the input, the weight and the bias
    _, gradient, _ = torch.ops.aten.convolution_backward(
        signal, h, weight, None, ones, ones, ones, False, [0, 0], 1, wanted
    )
    return gradient


def stack(members: Sequence[Tensor]) -> Tensor:
    return members[0][None] if len(members) == 1 else torch.stack([*members])
