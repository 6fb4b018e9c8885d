"""Direct feedback alignment (Nokland 2016): every hidden layer receives the readout's error through a random matrix.

    biohsic --config-dir examples/configs "plugins=[direct_feedback_alignment]" data=digits \
        rule=direct_feedback_alignment

The matrix is a state of the rule: drawn once for each member of an ensemble, from the member's own generator, kept in
checkpoints, never learnt.
"""

import math
from typing import Any

import torch
from torch import Tensor

from projectlib.rules import Hidden, HiddenUpdate, LocalRule


class DirectFeedbackAlignment(LocalRule):
    """``dW = -eta (B e) dz/dW``: e the readout's error of each sample, B fixed and random, on plain batches.

    scale: sd of an entry of B times sqrt(num_classes).
    """

    sliding = False
    needs_readout_error = True

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def hidden_state(self, hidden: Hidden, z: Tensor, generator: torch.Generator) -> Tensor:
        """B, (features of z, num_classes)."""
        num_classes = hidden.y.shape[1]
        sd = self.scale / math.sqrt(num_classes)
        return sd * torch.randn(z[0].numel(), num_classes, generator=generator, dtype=z.dtype)

    def update_hidden(self, hidden: Hidden, memory: Tensor, context: Any) -> HiddenUpdate:
        z, u, pull_back = hidden.pullback()
        assert hidden.readout_error is not None  # as it is needed
        signal = hidden.readout_error @ memory.T / len(z)  # of the mean over the batch
        return HiddenUpdate(pull_back(signal.reshape(z.shape)), z, u, memory)
