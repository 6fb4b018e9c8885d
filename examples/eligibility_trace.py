"""The three-factor rule with an eligibility trace: a synapse changes by a running mean of its last updates.

    biohsic --config-dir examples/configs "plugins=[eligibility_trace]" rule=eligibility_trace data=digits

The trace is a state of the rule, of the shapes of a layer's weights: zero at first, then one for each model, kept in
checkpoints.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from projectlib.errors import UserError
from projectlib.rules import BioHSIC, Hidden, HiddenUpdate


class EligibilityTrace(BioHSIC):
    """``e <- decay e + (1 - decay) xi dz_N/dW,  dW = -eta e``: as BioHSIC, with what it would do spread over samples.

    decay: in [0, 1), 0 for BioHSIC itself.  The others are BioHSIC's.  Raises UserError for another decay.
    """

    def __init__(self, decay: float, **options: Any):
        super().__init__(**options)
        if not 0 <= decay < 1:
            raise UserError(f"rule.decay is {decay}; expected a number from 0 to below 1")
        self.decay = decay

    def hidden_state(self, hidden: Hidden, z: Tensor, generator: torch.Generator) -> tuple[dict[str, Tensor], Any]:
        """The trace, and what BioHSIC's modulator remembers."""
        return tree_map(torch.zeros_like, hidden.parameters), super().hidden_state(hidden, z, generator)

    def update_hidden(self, hidden: Hidden, memory: tuple[dict[str, Tensor], Any], context: Any) -> HiddenUpdate:
        trace, modulator = memory
        update = super().update_hidden(hidden, modulator, context)
        trace = {name: self.decay * old + (1 - self.decay) * update.gradients[name] for name, old in trace.items()}
        return HiddenUpdate(trace, update.z, update.u, (trace, update.memory))
