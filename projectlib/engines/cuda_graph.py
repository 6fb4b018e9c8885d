"""The GPU engine: the whole step as one captured CUDA graph, replayed without synchronising with the host.

Before it trains it proves itself on the machine that it runs on: its replays must do what eager's steps do.
"""

import logging
import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import keystr, tree_flatten_with_path

from projectlib.data import Epoch, Sampler
from projectlib.engines.eager import EagerEngine
from projectlib.engines.optimizers import initialize_optimizer
from projectlib.ensemble import Ensemble
from projectlib.errors import UserError
from projectlib.models import Network, SpikingLayer
from projectlib.rules import Rule

UNROLLED = 16  # steps in one graph, for models that take one time step per window
WARM_UP_RUNS = 3  # before a capture, so that libraries have allocated and chosen what they need
EARLY_UPDATES = 20  # of Adam, which go by the sign of a gradient, however small: they make steps out of its rounding

TOLERANCE = 1e-2  # of the change that the compared steps make: another order of sums was seen to make 1e-4 of it, and a
# step that is left out makes 6e-2
FLIPS = 1e-3  # of a spiking network's state: where a potential is at its threshold, rounding decides whether it fires
ROUNDING = 1e-6  # of the values themselves, where a change is no larger than what float32 resolves

log = logging.getLogger(__name__)

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Turns a function without arguments into one that repeats its work on the same tensors."""


class Replays(NamedTuple):
    """Functions that replay the captured graph of one step, and that of ``unrolled`` steps."""

    one: Callable[[], None]
    many: Callable[[], None]


def capture_graph(function: Callable[[], None]) -> Callable[[], None]:
    """Record ``function``, which works in place on fixed CUDA tensors, and return its replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_RUNS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # torch's own stream would be on the device of the first job of a process, and stay current where capture fails
    with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream):
        function()
    return graph.replay


class GraphEngine(EagerEngine):
    """Eager's step, fused by torch.compile and captured once; a step's number is a counter on the device.

    Where capture fails, or replays differ from eager's steps, it says so in one warning and runs in eager.

    required: raise UserError instead of that warning.
    capture: how a function is recorded; the tests pass their own where there is no GPU.
    backend: of torch.compile, which fuses the many small operations of a window and its gradients; None leaves them.
    """

    name = "compiled"
    worth_compiling = 3000  # updates, against a minute of torch.compile

    @staticmethod
    def supports(network: Network, rule: Rule) -> bool:
        """It runs whatever eager runs."""
        return True

    @staticmethod
    def unsupported(ensemble: Ensemble, rule: Rule, optimizer: Optimizer, sampler: Sampler) -> str | None:
        """What of a task it does not support, in words; None if it supports it."""
        return "momentum with dampening" if optimizer.param_groups[0].get("dampening") else None

    @staticmethod
    def is_compiled(layers: Sequence[type], rule: Rule) -> bool:
        """Never: what torch.compile caches depends on all settings, and a graph lives as long as its process."""
        return False

    def __init__(
        self, *arguments, required: bool = True, capture: Capture = capture_graph, backend: str | None = "inductor"
    ):
        super().__init__(*arguments)
        self.required, self.capture = required, capture
        self.fused = copy(self)  # takes eager's steps on the same tensors
        if backend:
            options: Any = {"fullgraph": True, "dynamic": False, "backend": backend}
            self.fused.window = torch.compile(self.window, **options)
            self.fused.advance = torch.compile(self.advance, **options)
        self.whole_steps = replace(self.sampler, drop_last=True)
        self.position = torch.zeros((), dtype=torch.int64, device=self.source.inputs.device)
        self.epoch: Epoch = super().draw_epoch(torch.Generator())  # every later one is copied into it for the graph
        self.replays: Replays | None = None  # None: eager
        self.constants: list[dict] = []  # of the optimizer, as the graph has them
        self.unrolled = UNROLLED if self.ensemble.network.num_timesteps == 1 else 1

    def draw_epoch(self, generator: torch.Generator) -> Epoch:
        for fixed, drawn in zip(self.epoch, self.sampler.epoch(generator), strict=True):
            if fixed is not None and drawn is not None:
                fixed.copy_(drawn)
        return self.epoch

    def compile(self) -> None:
        """Capture the step and compare it with eager's, which leaves no trace; go on in eager where that fails.

        Raises UserError there if the graph is ``required``.
        """
        torch.compiler.reset()  # jobs of one process would share torch's cache, and a few fill it
        initialize_optimizer(self.optimizer)
        before = self.snapshot()
        try:
            self.replays = self.record()
            self.put_back(before)
            failure = self.difference(self.replays)
        except Exception as error:  # whatever torch.compile, a compiler that it calls or the driver may raise
            failure = told_with_cause(error)
        self.put_back(before)
        self.optimizer.zero_grad()  # of the steps that were tried
        if failure is not None:
            self.give_up(failure)

    def give_up(self, failure: str) -> None:
        """Go on in eager.  Raises UserError if the graph is ``required``."""
        if self.required:
            raise UserError(
                f"engine is 'compiled', but the captured graph fails on this device ({failure}); use engine=auto or "
                "engine=eager"
            )
        log.warning("engine eager: the captured graph fails on this device (%s)", failure)
        self.name, self.replays = EagerEngine.name, None

    def record(self) -> Replays:
        """Capture one step, and ``unrolled`` of them."""
        self.constants = constants(self.optimizer)
        one = self.capture(self.one_step)
        self.position.zero_()
        return Replays(one, self.capture(self.many_steps) if self.unrolled > 1 else one)

    def steps_before_comparison(self) -> int:
        """Steps until early updates are over, and a memory is complete, before which it gives no signal."""
        remembered = self.rule.modulator.num_samples if self.rule.modulator else 0
        updates = max(EARLY_UPDATES, math.ceil(remembered / self.sampler.size))
        return math.ceil(updates / self.ensemble.network.num_timesteps)

    def take_eager_steps(self, first: int, count: int) -> None:
        """Eager's steps from the ``first`` of an epoch on, which begins again where it ends."""
        for step in range(first, first + count):
            self.present(*self.window(self.whole_steps, self.epoch, step % self.whole_steps.steps))
        self.position.fill_((first + count) % self.whole_steps.steps)

    def difference(self, replays: Replays) -> str | None:
        """Where each replay, once, leaves other numbers than eager's steps from the same state; None if nowhere."""
        num_steps, first = self.unrolled + 1, self.steps_before_comparison()
        self.take_eager_steps(0, first)
        before = self.snapshot()
        self.take_eager_steps(first, num_steps)
        expected = self.snapshot()
        self.put_back(before)
        replays.many()
        replays.one()
        departures = {}
        fires = any(isinstance(layer, SpikingLayer) for layer in self.ensemble.network.layers)
        for name, got in self.snapshot().items():
            flips = FLIPS if fires and name.startswith("['state'].layers") else 0
            departures[name] = departure(got, expected[name], before[name], flips)
        worst = max(departures, key=departures.__getitem__)
        if departures[worst] <= 1:
            return None
        return (
            f"after {num_steps} steps {worst} is {departures[worst]:.2g} times as far from eager's as rounding explains"
        )

    def run(self, epoch: Epoch, start: int, stop: int) -> None:
        whole = start
        if self.replays and constants(self.optimizer) != self.constants:
            self.give_up("a schedule changes more of the optimizer than its learning rate, which a graph does not see")
        if self.replays:
            whole = max(start, min(stop, self.whole_steps.steps))
            self.position.fill_(start)
            many, one = divmod(whole - start, self.unrolled)
            for _ in range(many):
                self.replays.many()
            for _ in range(one):
                self.replays.one()
            self.steps_in_epoch += whole - start
        if stop > whole:  # eager, or a last, smaller batch, which has other shapes than the graph
            super().run(epoch, whole, stop)
        if self.replays and self.position.is_cuda:  # or signals, and the progress shown, wait for all that is queued
            torch.cuda.current_stream(self.position.device).synchronize()

    def one_step(self) -> None:
        """The step that ``position`` counts, in place, and the counter moved on."""
        self.fused.present(*self.fused.window(self.whole_steps, self.epoch, self.position))
        self.position.add_(1).remainder_(self.whole_steps.steps)  # the runs before a capture may be more than an epoch

    def many_steps(self) -> None:
        for _ in range(self.unrolled):
            self.one_step()

    def mutable_tensors(self) -> dict[str, Tensor]:
        """Every tensor that a step changes, by where it is."""
        tree = {
            "parameters": self.ensemble.parameters,
            "state": self.state,
            "optimizer": [*self.optimizer.state.values()],
            "totals": self.totals,
            "position": self.position,
        }
        leaves = tree_flatten_with_path(tree)[0]
        return {keystr(path): leaf for path, leaf in leaves if torch.is_tensor(leaf)}

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of the ``mutable_tensors``, on the host: a GPU need not hold three states of a large ensemble."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in self.mutable_tensors().items()}

    def put_back(self, saved: dict[str, Tensor]) -> None:
        """Undo all changes since a ``snapshot``, in place."""
        for name, tensor in self.mutable_tensors().items():
            tensor.copy_(saved[name])


def constants(optimizer: Optimizer) -> list[dict]:
    """What of an optimizer's settings a captured step has as it was, by group: values, and where tensors are."""
    return [
        {key: value.data_ptr() if torch.is_tensor(value) else value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]


def told_with_cause(error: BaseException) -> str:
    """An error on one line, and before it what it came from: the end of a capture fails whatever failed within it."""
    cause = error
    while (before := cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)) is not None:
        cause = before
    told = [error] if cause is error else [cause, error]
    return " ".join("; then ".join(f"{type(each).__name__}: {each}"[:300] for each in told).split())


def departure(got: Tensor, expected: Tensor, before: Tensor, flips: float = 0) -> float:
    """``|got - expected|`` relative to what float32 explains after a change from ``before``; all of one shape.

    Models that diverge in both, which is not this engine's to report, do not count.  flips: of the numbers that depart
    most, the fraction that does not count either.
    """
    finite = expected.isfinite()
    if not torch.equal(finite, got.isfinite()):
        return math.inf
    got, expected, before = (tensor.double().where(finite, 0).nan_to_num() for tensor in (got, expected, before))
    errors = (got - expected).flatten()
    errors[errors.abs().topk(int(flips * len(errors))).indices] = 0
    error = errors.norm()
    explained = TOLERANCE * (expected - before).norm() + ROUNDING * expected.norm()
    return (error / explained).item() if error > 0 else 0.0
