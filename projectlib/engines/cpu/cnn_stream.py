"""The CPU engine for convolutional networks with a memory beside every hidden layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from projectlib.data import Sampler
from projectlib.engines.cpu.cnn import is_convolutional, learn_readout
from projectlib.engines.cpu.convolution import Convolution, Direct, Winograd, convolution_of
from projectlib.engines.cpu.kernels import cnn_stream as kernels
from projectlib.engines.cpu.kernels.compiler import cached_signatures
from projectlib.engines.cpu.memories import MEMORIES
from projectlib.engines.eager import EagerEngine, put
from projectlib.models.cnn import ConvLayer, PooledReadout, average
from projectlib.models.network import Network, Parameters
from projectlib.modulators import Memory, Sample
from projectlib.modulators.memory import BLOCKS_HORIZON, Blocks
from projectlib.rules import BioHSIC, Rule, TrainingState
from projectlib.rules.rule import own_kernel

OF_BLOCKS = "initial_state", "__call__", "averaged", "supply_blocks", "scaled"  # the parts of Memory that are done here
NO_WEIGHTS = np.zeros((1, 1), np.float32)  # of a signal that follows from labels alone


class Buffers(NamedTuple):
    """What a step writes about A images in a hidden layer; kept, so that their pages are.

    a, z, signal: (A, H, W, channels), the signal that with respect to a.  inverse_deviation: (A, H, W).
    means, xi: (A, grid, grid, channels) of blocks.
    """

    convolution: Convolution
    a: Tensor
    z: Tensor
    signal: Tensor
    inverse_deviation: Tensor
    means: Tensor
    xi: Tensor
    work: kernels.Work


class Layer(NamedTuple):
    """One model's part of a layer: weights and their gradients by name, and its memory (of the readout: replay)."""

    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]
    memory: Any


class Member(NamedTuple):
    """One model, as views of what all have in common."""

    hidden: Sequence[Layer]
    readout: Layer


class ConvolutionStreamEngine(EagerEngine):
    """Eager's steps of BioHSIC with a memory: each image is run once, each layer's memory read and written once.

    Members follow one another; their gradients are written where they stay.  The optimizer is torch's own, and what is
    remembered is changed in the state's own tensors, so that eager can go on from here.  Memories without a kernel, or
    whose signal needs inputs, are eager's.
    """

    name = "compiled"
    rule: BioHSIC
    worth_compiling = 500  # updates, each of which it makes 5 ms shorter and more; compiling takes 4 to 5 s

    @staticmethod
    def takes(network: Network, rule: Rule) -> bool:
        return rule.streams and is_convolutional(network)

    @staticmethod
    def lacks(rule: Rule, optimizer: Optimizer, sampler: Sampler) -> str | None:
        if own_kernel(rule) != "biohsic":
            return f"the rule {type(rule).__name__} on convolutions"
        sees_blocks = isinstance(rule.modulator, Memory) and all(
            getattr(type(rule.modulator), name) is getattr(Memory, name) for name in OF_BLOCKS
        )
        return None if sees_blocks else f"the modulator {type(rule.modulator).__name__} on convolutions"

    @staticmethod
    def is_compiled(layers: Sequence[type], rule: Rule) -> bool:
        """Whether the cache has the passes, which are the same for any number of layers, and the memory's."""
        wanted = MEMORIES[rule.modulator.kernel].remembered if has_kernel(rule.modulator) else None
        memories = [memory.instance_class for _, memory, *_ in cached_signatures(kernels.supply_blocks)]
        return bool(cached_signatures(kernels.pull_back_images)) and (wanted is None or wanted in memories)

    def warm_up(self) -> None:
        """Compile, and load what was compiled: on arrays of one number each."""
        self.has_kernel = has_kernel(self.rule.modulator)
        self.gradients = tree_map(torch.empty_like, self.ensemble.parameters)
        self.members = [self.member(index) for index in range(self.ensemble.num_models)]
        self.buffers: dict[tuple[int, int], Buffers] = {}  # by layer and number of images
        h, y = torch.zeros(1, 1, 1, 1), torch.zeros(1, self.num_classes)
        weights = {"conv.weight": torch.zeros(1, 1, 3, 3), "conv.bias": torch.zeros(1)}
        zeros = Sample(h[0], y[0], h[0])
        layer = Layer(weights, weights, self.rule.modulator.initial_state(zeros, torch.Generator()))
        for convolution in Direct(h), Winograd(1, 1, 1):
            self.update_convolution(layer, self.new_buffers(h, convolution, 1), h, h, y)

    def member(self, index: int) -> Member:
        """One model, as views of what all have in common."""
        *memories, replay = tree_map(lambda stacked: stacked[index], self.state.rule)
        weights, gradients = (
            [{name: tensor[index] for name, tensor in layer.items()} for layer in layers]
            for layers in (self.ensemble.parameters, self.gradients)
        )
        *hidden, readout = zip(weights, gradients, [*memories, replay], strict=True)
        return Member([Layer(*layer) for layer in hidden], Layer(*readout))

    def advance(self, x: Tensor, y: Tensor, context: Any) -> tuple[Parameters, TrainingState, Tensor]:
        images = x.permute(0, 2, 3, 1).contiguous()
        measured = [self.advance_member(member, images, x, y) for member in self.members]
        return self.gradients, self.state, torch.stack(measured)

    def advance_member(self, member: Member, images: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Write one model's gradients and what it remembers; returns its metrics.  images: x with its channels last."""
        h, layers = images, cast(Sequence[ConvLayer], self.ensemble.network.layers[:-1])
        for index, (layer, of_member) in enumerate(zip(layers, member.hidden, strict=True)):
            pooled = average(h, layer.pool).permute(0, 2, 3, 1).contiguous()
            buffers = self.buffers_of(index, pooled, len(of_member.weights["conv.bias"]))
            self.update_convolution(of_member, buffers, pooled, x, y)
            h = buffers.z
        return self.measure([self.update_readout(member.readout, h, y)], x, y)

    def update_convolution(self, layer: Layer, buffers: Buffers, h: Tensor, x: Tensor, y: Tensor) -> None:
        """Write gradients, memory and z of a hidden layer, which receives h (A, H, W, C)."""
        convolution, a, z, signal, inverse_deviation, means, xi, work = buffers
        convolution.outputs(h, layer.weights["conv.weight"], layer.weights["conv.bias"], a)
        kernels.activate_images(a.numpy(), z.numpy(), inverse_deviation.numpy(), means.numpy())
        supply = self.supply_compiled if self.has_kernel else self.supply
        supply(Sample(x, y, means.flatten(1)), layer.memory, xi.flatten(1), work)
        kernels.pull_back_images(a.numpy(), z.numpy(), inverse_deviation.numpy(), xi.numpy(), signal.numpy())
        convolution.weight_gradient(signal, layer.gradients["conv.weight"])
        torch.sum(signal.flatten(0, 2), 0, out=layer.gradients["conv.bias"])

    def update_readout(self, readout: Layer, h: Tensor, y: Tensor) -> Tensor:
        """Write gradients and replay of the readout, which receives h; returns its logits."""
        network, replay = self.ensemble.network, readout.memory
        if replay:
            update = self.rule.update_readout(network.layer(-1), readout.weights, h, (), y, replay)
            gradients, logits, _, new_replay = update
            put(replay, new_replay)
        else:
            gradients, logits = learn_readout(cast(PooledReadout, network.layers[-1]), readout.weights, h, y)
        put(readout.gradients, gradients)
        return logits

    def buffers_of(self, index: int, h: Tensor, channels: int) -> Buffers:
        """Those of hidden layer ``index``, which receives h (A, H, W, C)."""
        key = index, len(h)
        if key not in self.buffers:
            self.buffers[key] = self.new_buffers(h, convolution_of(h, channels), channels)
        return self.buffers[key]

    def new_buffers(self, h: Tensor, convolution: Convolution, channels: int) -> Buffers:
        places, grid = h.shape[:3], self.rule.modulator.grid
        a, means = h.new_empty(*places, channels), h.new_empty(len(h), grid, grid, channels)
        width, num_remembered = means[0].numel(), self.rule.modulator.num_samples
        return Buffers(
            convolution=convolution,
            a=a,
            z=torch.empty_like(a),
            signal=torch.empty_like(a),
            inverse_deviation=h.new_empty(places),
            means=means,
            xi=torch.empty_like(means),
            work=kernels.Work(
                seen=np.zeros(width, np.float32),
                factor=np.zeros(max(num_remembered, self.num_classes), np.float32),
                centered=np.zeros((2, max(width, self.num_classes)), np.float32),
            ),
        )

    def supply_compiled(self, block: Sample, state: Blocks, xi: Tensor, work: kernels.Work) -> None:
        """Write the signals xi (A, d) of a block of images, whose z are means over blocks (A, d); update the state."""
        memory, count = MEMORIES[self.rule.modulator.kernel], int(state.count)
        kernels.supply_blocks(
            kernels.Blocks(state.mean.numpy(), state.scale[None].numpy()),
            memory.remembered(*(part.numpy() for part in memory.parts(state.memory))),
            memory.settings(self.rule.modulator),
            block.z.numpy(),
            block.y.argmax(1).numpy(),
            count,
            float(BLOCKS_HORIZON),
            NO_WEIGHTS,
            xi.numpy(),
            work,
        )
        for leaf in tree_leaves(state):
            if leaf.dtype == torch.int64:
                leaf += len(xi)

    def supply(self, block: Sample, state: Blocks, xi: Tensor, work: kernels.Work) -> None:
        """The same by the memory's own code."""
        after = state
        for index, sample in enumerate(zip(*block, strict=True)):
            xi[index], after = self.rule.modulator.supply_blocks(Sample(*sample), after)
        put(state, after)


def has_kernel(modulator: Any) -> bool:
    """Whether a memory of blocks has compiled code."""
    return own_kernel(modulator) in MEMORIES and not modulator.compares_inputs
