"""The CPU engine for convolutional networks with a memory beside every hidden layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from projectlib.data import Sampler
from projectlib.engines.cpu.cnn import is_convolutional, learn_readout, stack
from projectlib.engines.cpu.kernels import cnn_stream as kernels
from projectlib.engines.cpu.kernels.compiler import cached_signatures
from projectlib.engines.cpu.memories import MEMORIES
from projectlib.engines.eager import EagerEngine, put
from projectlib.models.cnn import average
from projectlib.models.network import Network, Parameters
from projectlib.modulators import Memory, Sample
from projectlib.modulators.memory import BLOCKS_HORIZON, Blocks
from projectlib.rules import BioHSIC, Rule, TrainingState
from projectlib.rules.rule import own_kernel

OF_BLOCKS = "initial_state", "__call__", "averaged", "supply_blocks", "scaled"  # the parts of Memory that are done here
NO_WEIGHTS = np.zeros((1, 1), np.float32)  # of a signal that follows from labels alone


class Buffers(NamedTuple):
    """What a step writes about A images in a hidden layer; kept, so that their pages are.

    read: (A, H, W, C, 3, 3) what the convolution reads at each place.  a, z, signal: (A, H, W, channels), the signal
    that with respect to a.  inverse_deviation: (A, H, W).  means, xi: (A, grid, grid, channels) of blocks.
    """

    read: Tensor
    a: Tensor
    z: Tensor
    signal: Tensor
    inverse_deviation: Tensor
    means: Tensor
    xi: Tensor
    work: kernels.Work


class ConvolutionStreamEngine(EagerEngine):
    """Eager's steps of BioHSIC with a memory: each image is run once, each layer's memory read and written once.

    A convolution of few images is a product with the matrix of what it reads at each place, and its weight gradient
    another with the same matrix.  Members follow one another.  The optimizer is torch's own, and what is remembered is
    changed in the state's own tensors, so that eager can go on from here.  Memories without a kernel, or whose signal
    needs inputs, are eager's.
    """

    name = "compiled"
    rule: BioHSIC
    worth_compiling = 500  # updates, each of which it makes 5 ms shorter; compiling takes 2 to 3 s

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
        self.buffers: dict[tuple[int, int], Buffers] = {}  # by layer and number of images
        self.has_kernel = has_kernel(self.rule.modulator)
        h, y = torch.zeros(1, 1, 1, 1), torch.zeros(1, self.num_classes)
        weights = {"conv.weight": torch.zeros(1, 1, 3, 3), "conv.bias": torch.zeros(1)}
        zeros = Sample(h[0], y[0], h[0])
        memory = self.rule.modulator.initial_state(zeros, torch.Generator())
        self.update_convolution(-1, h, weights, memory, h, y)
        self.buffers.clear()

    def advance(self, x: Tensor, y: Tensor, context: Any) -> tuple[Parameters, TrainingState, Tensor]:
        images = x.permute(0, 2, 3, 1).contiguous()
        results = [self.advance_member(index, images, x, y) for index in range(self.ensemble.num_models)]
        gradients, measured = zip(*results, strict=True)
        return tree_map(lambda *members: stack(members), *gradients), self.state, stack(measured)

    def advance_member(self, member: int, images: Tensor, x: Tensor, y: Tensor) -> tuple[Parameters, Tensor]:
        """One model's gradients and metrics; its state is updated.  images: x with its channels last."""
        layers: list[Any] = [*self.ensemble.network.layers]  # of the classes that it ``takes``
        *hidden, readout = layers
        parameters = self.ensemble.member(member)
        *memories, replay = tree_map(lambda stacked: stacked[member], self.state.rule)
        gradients, h = [], images
        for index, layer in enumerate(hidden):
            pooled = average(h, layer.pool).permute(0, 2, 3, 1).contiguous()
            gradient, h = self.update_convolution(index, pooled, parameters[index], memories[index], x, y)
            gradients.append(gradient)
        if replay:
            update = self.rule.update_readout(self.ensemble.network.layer(-1), parameters[-1], h, (), y, replay)
            gradient, logits, _, new_replay = update
            put(replay, new_replay)
        else:
            gradient, logits = learn_readout(readout, parameters[-1], h, y)
        return [*gradients, gradient], self.measure([logits], x, y)

    def update_convolution(
        self, index: int, h: Tensor, parameters: dict[str, Tensor], memory: Blocks, x: Tensor, y: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients and z (A, H, W, channels) of hidden layer ``index``, which receives h (A, H, W, C)."""
        weight, bias = parameters["conv.weight"], parameters["conv.bias"]
        read, a, z, signal, inverse_deviation, means, xi, work = self.buffers_of(index, h, len(weight))
        kernels.neighbourhoods(h.numpy(), read.numpy())
        rows, flat_a, pulled = read.flatten(3).flatten(0, 2), a.flatten(0, 2), signal.flatten(0, 2)
        torch.addmm(bias, rows, weight.flatten(1).T, out=flat_a)
        kernels.activate_images(a.numpy(), z.numpy(), inverse_deviation.numpy(), means.numpy())
        supply = self.supply_compiled if self.has_kernel else self.supply
        supply(Sample(x, y, means.flatten(1)), memory, xi.flatten(1), work)
        kernels.pull_back_images(a.numpy(), z.numpy(), inverse_deviation.numpy(), xi.numpy(), signal.numpy())
        return {"conv.weight": (pulled.T @ rows).view_as(weight), "conv.bias": pulled.sum(0)}, z

    def buffers_of(self, index: int, h: Tensor, channels: int) -> Buffers:
        places, grid = h.shape[:3], self.rule.modulator.grid
        if (index, len(h)) not in self.buffers:
            a, means = h.new_empty(*places, channels), h.new_empty(len(h), grid, grid, channels)
            width, num_remembered = means[0].numel(), self.rule.modulator.num_samples
            work = kernels.Work(
                seen=np.zeros(width, np.float32),
                factor=np.zeros(max(num_remembered, self.num_classes), np.float32),
                centered=np.zeros((2, max(width, self.num_classes)), np.float32),
            )
            self.buffers[index, len(h)] = Buffers(
                read=h.new_empty(*h.shape, 3, 3),
                a=a,
                z=torch.empty_like(a),
                signal=torch.empty_like(a),
                inverse_deviation=h.new_empty(places),
                means=means,
                xi=torch.empty_like(means),
                work=work,
            )
        return self.buffers[index, len(h)]

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
