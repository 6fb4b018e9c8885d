"""The control: what a network reaches with random hidden layers."""

from typing import Any

from projectlib.rules.local import Hidden, HiddenUpdate, LocalRule


class Frozen(LocalRule):
    """Hidden layers keep their random weights, only the readout learns: dW = 0."""

    trains_hidden = False
    kernel = "frozen"

    def update_hidden(self, hidden: Hidden, memory: Any, context: Any) -> HiddenUpdate:
        return HiddenUpdate({}, *hidden.run(), memory)
