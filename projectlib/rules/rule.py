"""What a rule is: samples in, gradients out."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from projectlib.models.network import Network, Parameters, State
from projectlib.values import is_count, require


class TrainingState(NamedTuple):
    """All of one model, beside its weights, that is carried from step to step and kept in checkpoints.

    layers: of every layer (``Network.initial_state``).  rule: whatever the rule remembers.  Both are pytrees of
    tensors: tensors in tuples, named tuples, lists and dictionaries.
    """

    layers: State
    rule: Any


class Update(NamedTuple):
    """What a rule makes of one window or batch (or of one time step of it).

    gradients: one dictionary per layer, as the parameters; empty for a layer that is left alone.
    state: after the time step.  outputs: (N, ...) of every layer before the update, the logits (N, num_classes) last.
    """

    gradients: Parameters
    state: TrainingState
    outputs: list[Tensor]


class Rule(ABC):
    """How one model learns.  A rule knows nothing of loops, optimizers or ensembles.

    Many models are trained at once through ``torch.vmap``, so what a rule computes is pure: no randomness, no Python
    ``if`` or ``.item()`` on the values of tensors, no tensor changed in place, and nothing that learns kept on
    ``self``.  What it draws at random and what it remembers is state: drawn in ``rule_state``, returned in ``Update``.

    What it is, it says by attributes:

    task: which scripts it is for, "network" or "reservoir".
    sliding: windows that slide by one sample, or plain batches.
    streams: whether samples are run once each, in blocks of ``window`` that make one update.
    window: samples in a window or batch, where the rule leaves no choice; None for ``data.batchsize``.
    smallest_window: the fewest that it can learn from.
    num_replayed: samples before the newest that the readout of a stream learns from again; of layers with a state,
        time steps.
    trains_hidden: whether hidden layers learn, or only the readout.
    gamma, sigmas: of the objective HSIC(X, Z) - gamma HSIC(Y, Z), which is then what ``training.log_hsic`` measures,
        also where ``form`` descends another; None for a rule without them.
    form: of the signal that is computed from a window (``hsic.modulation``); None for a rule without one.
    modulator: who supplies the modulatory signal (``projectlib.modulators``); None for a rule without one.
    own_memory: the modulator, if it is a memory and all that is remembered of a hidden layer is its; else None.
    transports: what has to reach a hidden layer besides its own input and activity, in words, for the table.
    kernel: the name of compiled code that does the same.  A subclass, which may do something else, does not inherit it.
    """

    task: str = "network"
    sliding: bool = False
    streams: bool = False
    window: int | None = None
    smallest_window: int = 1
    num_replayed: int = 0
    trains_hidden: bool = True
    gamma: float | None = None
    sigmas: tuple[float, float, float] | None = None
    form: str | None = None
    modulator: Any = None
    own_memory: Any = None
    transports: str = "labels"
    kernel: str | None = None

    def make_blocks(self, accumulate: int) -> None:
        """Have plain batches of ``accumulate`` samples, where that is more than one, instead of ``data.batchsize``.

        So one setting says for all rules how many samples make an update; a rule that needs one sample only, and sets
        ``window``, takes 1 at its word.  Raises UserError where it is no count.
        """
        require(is_count(accumulate), "optimizer.accumulate", accumulate, "a whole number of at least 1")
        if accumulate > 1:
            self.sliding, self.window = False, accumulate

    def rule_state(self, network: Network, x: Tensor, y: Tensor, generator: torch.Generator) -> Any:
        """What the rule remembers of one model before the first window, which is of the shapes of x and y.

        x: (N, ...) and y: (N, num_classes), zeros.  generator: of the model, for all that is random.  Everything is
        on the CPU, and moved to where training goes on.
        """
        return ()

    def initial_state(self, network: Network, x: Tensor, y: Tensor, generator: torch.Generator) -> TrainingState:
        """The state of one model before the first window; as ``rule_state``, and every layer's beside it."""
        return TrainingState(network.initial_state(len(x), generator), self.rule_state(network, x, y, generator))

    def prepare(self, x: Tensor, y: Tensor) -> Any:
        """What all models and all time steps share for one window: x (N, ...) inputs, y (N, num_classes) one-hot."""
        return ()

    @abstractmethod
    def __call__(
        self, network: Network, parameters: Parameters, state: TrainingState, x: Tensor, y: Tensor, context: Any
    ) -> Update:
        """The gradients of one model; ``context`` is what ``prepare`` returned."""


def own_kernel(rule_or_modulator: Any) -> str | None:
    """The compiled code that a rule or modulator's own class, and not one that it inherits from, says does the same."""
    return vars(type(rule_or_modulator)).get("kernel")
