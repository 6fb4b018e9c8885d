"""Local classifiers: every hidden layer has a softmax of its own, and descends that one's error."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from projectlib.models.network import lecun_normal_
from projectlib.rules.local import Hidden, HiddenUpdate, LocalRule
from projectlib.rules.seen import seen_by_readout
from projectlib.values import is_count, is_number, require

FEEDBACKS = ("transpose", "random")


class Classifier(NamedTuple):
    """weight (num_classes, features) and bias (num_classes,) of a layer's softmax, which learn.

    feedback: (num_classes, features), fixed, what its error goes back through; () where that is the weight.
    """

    weight: Tensor
    bias: Tensor
    feedback: Any


class LocalClassifier(LocalRule):
    """A softmax reads each hidden layer, is taught the label and sends its error back there (Mostafa et al. 2018)::

        s = z / sqrt(d),  e = softmax(Q s + c) - y,  xi = Q' e / sqrt(d),   dW = -eta xi dz/dW     of this layer alone
        Q <- Q - q e s',  c <- c - q e                                      after the signal

    ``feedback="random"`` sends e back through B' for Q', fixed and as large as Q was drawn.  A learning rate q of 0
    keeps Q as it was drawn, the fixed random classifier of that paper.

    learning_rate: q, of the means over a block.  feedback: "transpose" or "random".  grid: of a convolution Q reads
    the means over grid x grid blocks of places, as memories do; without it what the next layer reads, means over 2 x 2
    places.  accumulate: samples of a block, run with the same weights, whose mean gradient makes one update.  Raises
    UserError for invalid values.
    """

    sliding = False
    kernel = "local-classifier"

    def __init__(
        self, learning_rate: float = 1.0, feedback: str = "transpose", grid: int | None = None, accumulate: int = 1
    ):
        is_rate = is_number(learning_rate) and learning_rate >= 0
        require(is_rate, "rule.learning_rate", learning_rate, "a number of at least 0, the rate of the classifiers")
        require(feedback in FEEDBACKS, "rule.feedback", feedback, " or ".join(FEEDBACKS))
        blocks = "a whole number of at least 1, blocks along a side of an image, or null: what the next layer reads"
        require(grid is None or is_count(grid), "rule.grid", grid, blocks)
        self.learning_rate, self.feedback, self.grid = learning_rate, feedback, grid
        self.make_blocks(accumulate)
        self.window = accumulate

    def hidden_state(self, hidden: Hidden, z: Tensor, generator: torch.Generator) -> Classifier:
        """Weights of sd 1 (inputs are of length 1), biases of 0."""
        num_classes, features = hidden.y.shape[1], seen_by_readout(z, self.grid).shape[1]

        def draw() -> Tensor:
            return features**0.5 * lecun_normal_(z.new_empty(num_classes, features), generator)

        return Classifier(draw(), z.new_zeros(num_classes), draw() if self.feedback == "random" else ())

    def update_hidden(self, hidden: Hidden, memory: Classifier, context: Any) -> HiddenUpdate:
        z, u, pull_back = hidden.pullback()
        xi, learnt = self.supply(z, hidden.y, memory)
        return HiddenUpdate(pull_back(xi / len(z)), z, u, learnt)

    def supply(self, z: Tensor, y: Tensor, memory: Classifier) -> tuple[Tensor, Classifier]:
        """(xi of the shape of z, what the classifier is from now on) of a block of samples, z (N, ...)."""
        seen, spread = cast(tuple[Tensor, Callable], torch.func.vjp(partial(seen_by_readout, grid=self.grid), z))
        share = seen.shape[1] ** -0.5
        error = (share * seen @ memory.weight.T + memory.bias).softmax(-1) - y
        (xi,) = spread(share * error @ (memory.feedback if self.feedback == "random" else memory.weight))
        learnt = memory._replace(
            weight=memory.weight - self.learning_rate * share / len(z) * error.T @ seen,
            bias=memory.bias - self.learning_rate * error.mean(0),
        )
        return xi, learnt
