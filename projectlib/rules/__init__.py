"""What turns samples into gradients: data in, gradients out, one small class each.

To add one, write a class after ``Rule`` or ``LocalRule`` and a yaml that names it, here or in a folder of one's own
(examples/).
"""

from projectlib.rules.backprop import Backprop
from projectlib.rules.biohsic import BioHSIC
from projectlib.rules.delta import Delta
from projectlib.rules.frozen import Frozen
from projectlib.rules.hsic import HSIC
from projectlib.rules.local import Hidden, HiddenUpdate, LocalRule
from projectlib.rules.rule import Rule, TrainingState, Update

__all__ = [
    "HSIC",
    "Backprop",
    "BioHSIC",
    "Delta",
    "Frozen",
    "Hidden",
    "HiddenUpdate",
    "LocalRule",
    "Rule",
    "TrainingState",
    "Update",
]
