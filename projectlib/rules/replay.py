"""A readout that learns from the last activations it received, as they were, beside the newest."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map


class Replay(NamedTuple):
    """The last P samples before the newest, oldest first, as a readout received them.

    h (P, ...) of the last hidden layer.  u: the readout's state before each, a pytree of (P, ...).  y (P, num_classes)
    one-hot, zeros where there was no sample yet.
    """

    h: Tensor
    u: Any
    y: Tensor


def nothing_to_replay(num: int, h: Tensor, u: Any, y: Tensor) -> Replay:
    """Room for ``num`` samples of these shapes, (N, ...) each."""
    return Replay(*tree_map(lambda rows: rows.new_zeros(num, *rows.shape[1:]), (h, u, y)))


def update_replayed(layer: Callable, parameters: dict[str, Tensor], block: Replay, replay: Replay):
    """(gradients, logits and new u of the block, what to replay next) of the mean cross-entropy of a block of samples.

    What counts as cross-entropy of a sample is the mean over itself and the P before it, as far as there were any.
    """
    rows = Replay(*tree_map(lambda old, new: torch.cat([old, new]), tuple(replay), tuple(block)))
    num, num_replayed = len(block.y), len(replay.y)
    shares = replay_shares(rows.y, num_replayed)

    def loss(p):
        logits, u = layer(p, rows.h, rows.u)
        newest = tree_map(lambda places: places[num_replayed:], (logits, u))
        return shares @ cross_entropy(logits, rows.y, reduction="none"), newest

    gradients, (logits, u) = torch.func.grad(loss, has_aux=True)(parameters)
    return gradients, logits, u, Replay(*tree_map(lambda places: places[num:], tuple(rows)))


def replay_shares(y: Tensor, num_replayed: int) -> Tensor:
    """Weights (P + A,), with a sum of 1, of P replayed samples and a block's A in the readout's cross-entropy."""
    places = torch.arange(len(y), device=y.device)
    newest = places[num_replayed:, None]
    learnt = (places <= newest) & (places >= newest - num_replayed) & (y.sum(1) > 0)
    learnt = learnt.to(y.dtype)
    return (learnt / learnt.sum(1, keepdim=True)).mean(0)
