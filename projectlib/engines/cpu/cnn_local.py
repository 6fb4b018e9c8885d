"""What CPU engines of local rules on convolutions have in common: an image is run once, each layer learns by itself."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from projectlib.engines.cpu.cnn import write_readout_gradients
from projectlib.engines.cpu.convolution import Convolution, Direct, Winograd, convolution_of
from projectlib.engines.cpu.kernels import cnn_stream as kernels
from projectlib.engines.eager import EagerEngine, copy_tree_
from projectlib.models.cnn import ConvLayer, PooledReadout, average
from projectlib.models.network import Parameters
from projectlib.rules import TrainingState
from projectlib.rules.local import Hidden, LocalRule


class Buffers(NamedTuple):
    """What a step writes about A images in a hidden layer; reused from step to step, which saves page faults.

    a, z, signal: (A, H, W, channels), the signal that with respect to a.  inverse_deviation: (A, H, W).
    means: (A, rows, columns, channels), z averaged over blocks.  xi: the same of the blocks that signals are for.
    work: scratch memory of what supplies them.
    """

    convolution: Convolution
    a: Tensor
    z: Tensor
    signal: Tensor
    inverse_deviation: Tensor
    means: Tensor
    xi: Tensor
    work: Any


class Layer(NamedTuple):
    """One model's part of a layer: weights and their gradients by name, and what the rule remembers of it."""

    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]
    memory: Any


class Member(NamedTuple):
    """One model, as views of what all have in common."""

    hidden: Sequence[Layer]
    readout: Layer


class LocalConvolutionEngine(EagerEngine):
    """Eager's steps of a rule whose hidden layers receive xi of each image: a number per channel and block of places.

    Members follow one another; their gradients are written where they stay.  The optimizer is torch's own, and what is
    remembered is changed in the state's own tensors, so that eager can go on from here.  A subclass says how many
    blocks there are, and supplies their xi.
    """

    name = "compiled"
    rule: LocalRule
    worth_compiling = 2000  # updates, each of which it makes 7 ms shorter and more; compiling takes 15 s

    @abstractmethod
    def num_blocks(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of the blocks that are averaged, and of those that a signal is for."""

    @abstractmethod
    def supply(self, memory: Any, buffers: Buffers, x: Tensor, y: Tensor) -> None:
        """Write xi of images, from z or its means over blocks, and what they leave in the layer's memory."""

    def new_work(self, width: int) -> Any:
        """Scratch memory for ``supply``, of a layer whose means are ``width`` numbers."""
        return ()

    def compile(self) -> None:
        """Compile, and load what was compiled: on arrays of one number each."""
        self.gradients = tree_map(torch.empty_like, self.ensemble.parameters)
        self.members = [self.member(index) for index in range(self.ensemble.num_models)]
        self.buffers: dict[tuple[int, int], Buffers] = {}  # by layer and number of images
        h, y = torch.zeros(1, 1, 1, 1), torch.zeros(1, self.num_classes)
        weights = {"conv.weight": torch.zeros(1, 1, 3, 3), "conv.bias": torch.zeros(1)}
        hidden = Hidden(0, self.ensemble.network, weights, h, h, (), y)
        layer = Layer(weights, weights, self.rule.hidden_state(hidden, h, torch.Generator()))
        for convolution in Direct(h), Winograd(1, 1, 1):
            self.update_convolution(layer, self.new_buffers(h, convolution, 1), h, h, y)

    def member(self, index: int) -> Member:
        """One model, as views of what all have in common."""
        memories = tree_map(lambda stacked: stacked[index], self.state.rule)
        weights, gradients = (
            [{name: tensor[index] for name, tensor in layer.items()} for layer in layers]
            for layers in (self.ensemble.parameters, self.gradients)
        )
        *hidden, readout = (Layer(*layer) for layer in zip(weights, gradients, memories, strict=True))
        return Member(hidden, readout)

    def advance(self, x: Tensor, y: Tensor, context: Any) -> tuple[Parameters, TrainingState, Tensor]:
        images = x.permute(0, 2, 3, 1).contiguous()
        measured = [self.advance_member(member, images, x, y) for member in self.members]
        return self.gradients, self.state, torch.stack(measured)

    def advance_member(self, member: Member, images: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Write one model's gradients and what it remembers; returns its metrics.  images: x with its channels last."""
        h, outputs, layers = images, [], cast(Sequence[ConvLayer], self.ensemble.network.layers[:-1])
        for index, (layer, of_member) in enumerate(zip(layers, member.hidden, strict=True)):
            pooled = average(h, layer.pool).permute(0, 2, 3, 1).contiguous()
            buffers = self.buffers_of(index, pooled, len(of_member.weights["conv.bias"]))
            self.update_convolution(of_member, buffers, pooled, x, y)
            h = buffers.z
            outputs.append(h)
        return self.measure([*outputs, self.update_readout(member.readout, h, y)], x, y)

    def update_convolution(self, layer: Layer, buffers: Buffers, h: Tensor, x: Tensor, y: Tensor) -> None:
        """Write gradients, memory and z of a hidden layer, which receives h (A, H, W, C)."""
        convolution, a, z, signal, inverse_deviation, means, xi, _ = buffers
        convolution.outputs(h, layer.weights["conv.weight"], layer.weights["conv.bias"], a)
        kernels.activate_images(a.numpy(), z.numpy(), inverse_deviation.numpy(), means.numpy())
        self.supply(layer.memory, buffers, x, y)
        kernels.pull_back_images(a.numpy(), z.numpy(), inverse_deviation.numpy(), xi.numpy(), signal.numpy())
        convolution.weight_gradient(signal, layer.gradients["conv.weight"])
        torch.sum(signal.flatten(0, 2), 0, out=layer.gradients["conv.bias"])

    def update_readout(self, readout: Layer, h: Tensor, y: Tensor) -> Tensor:
        """Write gradients and replay of the readout, which receives h; returns its logits."""
        network, replay = self.ensemble.network, readout.memory
        if not replay:
            layer = cast(PooledReadout, network.layers[-1])
            return write_readout_gradients(layer, readout.weights, h, y, readout.gradients)
        update = self.rule.update_readout(network.layer(-1), readout.weights, h, (), y, replay)
        gradients, logits, _, new_replay = update
        copy_tree_((replay, readout.gradients), (new_replay, gradients))
        return logits

    def buffers_of(self, index: int, h: Tensor, channels: int) -> Buffers:
        """Those of hidden layer ``index``, which receives h (A, H, W, C)."""
        key = index, len(h)
        if key not in self.buffers:
            self.buffers[key] = self.new_buffers(h, convolution_of(h, channels), channels)
        return self.buffers[key]

    def new_buffers(self, h: Tensor, convolution: Convolution, channels: int) -> Buffers:
        num, height, width, _ = h.shape
        averaged, signalled = self.num_blocks(height, width)
        a, means = h.new_empty(num, height, width, channels), h.new_empty(num, *averaged, channels)
        return Buffers(
            convolution=convolution,
            a=a,
            z=torch.empty_like(a),
            signal=torch.empty_like(a),
            inverse_deviation=h.new_empty(num, height, width),
            means=means,
            xi=h.new_zeros(num, *signalled, channels),
            work=self.new_work(means[0].numel()),
        )
