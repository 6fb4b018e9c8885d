"""The CPU engine for convolutional networks with a classifier beside every hidden layer."""

from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from projectlib.data import Sampler
from projectlib.engines.cpu.cnn import is_convolutional
from projectlib.engines.cpu.cnn_local import Buffers, LocalConvolutionEngine
from projectlib.engines.cpu.kernels import cnn_stream as kernels
from projectlib.engines.cpu.kernels.compiler import cached_signatures
from projectlib.engines.eager import copy_tree_
from projectlib.ensemble import Ensemble
from projectlib.models.network import Network
from projectlib.rules import LocalClassifier, Rule
from projectlib.rules.local_classifier import Classifier
from projectlib.rules.rule import own_kernel


class ConvolutionClassifierEngine(LocalConvolutionEngine):
    """Eager's steps of local classifiers, each of which reads its layer averaged over places."""

    rule: LocalClassifier

    @staticmethod
    def supports(network: Network, rule: Rule) -> bool:
        return own_kernel(rule) == "local-classifier" and is_convolutional(network)

    @staticmethod
    def unsupported(ensemble: Ensemble, rule: Rule, optimizer: Optimizer, sampler: Sampler) -> str | None:
        return None

    @staticmethod
    def is_compiled(layers: Sequence[type], rule: Rule) -> bool:
        """Whether the cache has the passes, which are the same for any number of layers."""
        return bool(cached_signatures(kernels.pull_back_images))

    def num_blocks(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        return (1, 1), (height, width)  # no means are read, and a signal is for a place

    def supply(self, memory: Classifier, buffers: Buffers, x: Tensor, y: Tensor) -> None:
        xi, learnt = self.rule.supply(buffers.z, y, memory)
        buffers.xi.copy_(xi)
        copy_tree_(memory, learnt)
