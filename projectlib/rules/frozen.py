"""The control: what a network reaches with random hidden layers."""

from typing import Any

from projectlib.rules.local import Hidden, HiddenUpdate, LocalRule


class Frozen(LocalRule):
    """Hidden layers keep their random weights, only the readout learns: dW = 0.

    accumulate: samples that make one update, see ``Rule.make_blocks``; windows that slide where it is 1.
    """

    trains_hidden = False
    transports = "nothing"
    kernel = "frozen"

    def __init__(self, accumulate: int = 1):
        self.make_blocks(accumulate)

    def update_hidden(self, hidden: Hidden, memory: Any, context: Any) -> HiddenUpdate:
        return HiddenUpdate({}, *hidden.run(), memory)
