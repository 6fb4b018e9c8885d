"""The CPU engine for convolutional networks with a memory beside every hidden layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from projectlib.data import Sampler
from projectlib.engines.cpu.cnn import is_convolutional
from projectlib.engines.cpu.cnn_local import Buffers, LocalConvolutionEngine
from projectlib.engines.cpu.kernels import cnn_stream as kernels
from projectlib.engines.cpu.kernels.compiler import cached_signatures
from projectlib.engines.cpu.kernels.memories import scratch_for
from projectlib.engines.cpu.memories import MEMORIES
from projectlib.engines.eager import copy_tree_
from projectlib.ensemble import Ensemble
from projectlib.models.network import Network
from projectlib.modulators import Memory, Sample
from projectlib.modulators.memory import BLOCKS_HORIZON, Blocks
from projectlib.rules import BioHSIC, Rule
from projectlib.rules.rule import own_kernel

COMPILED_METHODS = (
    "initial_state",
    "__call__",
    "averaged",
    "supply_blocks",
    "scaled",
)  # methods of Memory that this engine replaces
NO_WEIGHTS = np.zeros((1, 1), np.float32)  # of a signal that follows from labels alone


class ConvolutionStreamEngine(LocalConvolutionEngine):
    """Eager's steps of BioHSIC with a memory: each image is run once, each layer's memory read and written once.

    Memories without a kernel, or whose signal needs inputs, run eager's code between compiled convolutions.
    """

    rule: BioHSIC

    @staticmethod
    def supports(network: Network, rule: Rule) -> bool:
        return rule.streams and is_convolutional(network)

    @staticmethod
    def unsupported(ensemble: Ensemble, rule: Rule, optimizer: Optimizer, sampler: Sampler) -> str | None:
        if own_kernel(rule) != "biohsic":
            return f"the rule {type(rule).__name__} on convolutions"
        sees_blocks = isinstance(rule.modulator, Memory) and all(
            getattr(type(rule.modulator), name) is getattr(Memory, name) for name in COMPILED_METHODS
        )
        return None if sees_blocks else f"the modulator {type(rule.modulator).__name__} on convolutions"

    @staticmethod
    def is_compiled(layers: Sequence[type], rule: Rule) -> bool:
        """Whether the cache has the passes, which are the same for any number of layers, and the memory's."""
        wanted = MEMORIES[rule.modulator.kernel].remembered if has_kernel(rule.modulator) else None
        memories = [memory.instance_class for _, memory, *_ in cached_signatures(kernels.supply_blocks)]
        return bool(cached_signatures(kernels.pull_back_images)) and (wanted is None or wanted in memories)

    def num_blocks(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        grid = self.rule.modulator.grid, self.rule.modulator.grid
        return grid, grid

    def new_work(self, width: int) -> kernels.Work:
        return kernels.Work(
            seen=np.zeros(width, np.float32),
            scratch=scratch_for(self.rule.modulator.num_samples, width, self.num_classes),
        )

    def supply(self, memory: Blocks, buffers: Buffers, x: Tensor, y: Tensor) -> None:
        block, xi = Sample(x, y, buffers.means.flatten(1)), buffers.xi.flatten(1)
        if has_kernel(self.rule.modulator):
            self.supply_compiled(block, memory, xi, buffers.work)
            return
        after = memory
        for index, sample in enumerate(zip(*block, strict=True)):
            xi[index], after = self.rule.modulator.supply_blocks(Sample(*sample), after)
        copy_tree_(memory, after)

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
            if not leaf.is_floating_point():  # a count of samples
                leaf += len(xi)


def has_kernel(modulator: Any) -> bool:
    """Whether a memory of blocks has compiled code."""
    return own_kernel(modulator) in MEMORIES and not modulator.compares_inputs
