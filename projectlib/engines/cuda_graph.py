"""The GPU engine: the whole step as one captured CUDA graph, replayed without a word to the host."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from projectlib.data import Epoch, Sampler
from projectlib.engines.eager import EagerEngine
from projectlib.engines.optimizers import initialize_optimizer
from projectlib.rules import Rule

UNROLLED = 16  # steps in one graph, for models that take one time step a window
WARM_UP_RUNS = 3  # before a capture, so that libraries have allocated and chosen what they need

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Turns a function without arguments into one that replays its work on the same memory."""


def capture_graph(function: Callable[[], None]) -> Callable[[], None]:
    """Record ``function``, which works in place on fixed CUDA tensors, and return its replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_RUNS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):  # torch's own would stay on the device of the first job of a process
        function()
    return graph.replay


class GraphEngine(EagerEngine):
    """Eager's step, fused by torch.compile and captured once; a step's number is a counter on the device.

    capture: how a function is recorded; the tests pass their own where there is no GPU.
    backend: of torch.compile, which fuses the many small kernels of a window and its gradients; None leaves them.
    """

    name = "compiled"
    worth_compiling = 3000  # updates, against a minute of torch.compile

    @staticmethod
    def takes(layers: Sequence[type]) -> bool:
        """It runs whatever eager runs."""
        return True

    @staticmethod
    def lacks(rule: Rule, optimizer: Optimizer, sampler: Sampler) -> str | None:
        """What it does not cover, in words: a first step that is unlike the others."""
        return "momentum with dampening" if optimizer.param_groups[0].get("dampening") else None

    def __init__(self, *arguments, capture: Capture = capture_graph, backend: str | None = "inductor"):
        super().__init__(*arguments)
        self.capture = capture
        self.fused_window = self.window
        if backend:
            self.fused_window = torch.compile(self.window, fullgraph=True, backend=backend)
            self.advance = torch.compile(self.advance, fullgraph=True, backend=backend)
        self.whole_steps = replace(self.sampler, drop_last=True)
        self.position = torch.zeros((), dtype=torch.int64, device=self.source.inputs.device)
        self.epoch: Epoch = super().draw_epoch(torch.Generator())  # its memory is what the graph reads
        self.replay_one = self.replay_many = None
        self.unrolled = UNROLLED if self.ensemble.network.num_timesteps == 1 else 1

    def draw_epoch(self, generator: torch.Generator) -> Epoch:
        for fixed, drawn in zip(self.epoch, self.sampler.epoch(generator), strict=True):
            if fixed is not None:
                fixed.copy_(drawn)
        return self.epoch

    def warm_up(self) -> None:
        """Capture the step; the runs before a capture leave no trace."""
        initialize_optimizer(self.optimizer)
        before = [tensor.clone() for tensor in self.changing()]
        self.replay_one = self.capture(self.one_step)
        self.position.zero_()
        if self.unrolled == 1:
            self.replay_many = self.replay_one
        else:
            self.replay_many = self.capture(lambda: [self.one_step() for _ in range(self.unrolled)])
        for tensor, value in zip(self.changing(), before, strict=True):
            tensor.copy_(value)

    def run(self, epoch: Epoch, start: int, stop: int) -> None:
        self.position.fill_(start)
        whole = min(stop, self.whole_steps.steps)
        many, one = divmod(max(whole - start, 0), self.unrolled)
        for _ in range(many):
            self.replay_many()
        for _ in range(one):
            self.replay_one()
        self.steps_in_epoch += max(whole - start, 0)
        if stop > whole:  # a last, smaller batch has other shapes than the graph
            super().run(epoch, max(start, whole), stop)

    def one_step(self) -> None:
        """The step that ``position`` counts, in place, and the counter moved on."""
        self.present(*self.fused_window(self.whole_steps, self.epoch, self.position))
        self.position.add_(1).remainder_(self.whole_steps.steps)  # the runs before a capture may be more than an epoch

    def changing(self) -> list[Tensor]:
        """Every tensor that a step changes."""
        moments = [value for state in self.optimizer.state.values() for value in tree_leaves(state)]
        return [*tree_leaves(self.ensemble.parameters), *tree_leaves(self.state), *moments, self.totals, self.position]
