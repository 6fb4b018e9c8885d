"""What turns a window into gradients: data in, gradients out, one small class each.

A rule knows one model and nothing of loops, optimizers or ensembles.  To add one, write a class with the
attributes and methods of ``Rule`` and a file in configs/rule/.
"""

from projectlib.rules.backprop import Backprop
from projectlib.rules.biohsic import BioHSIC
from projectlib.rules.delta import Delta
from projectlib.rules.hsic import HSIC
from projectlib.rules.local import Frozen, LocalRule, Rule, Update

__all__ = ["HSIC", "Backprop", "BioHSIC", "Delta", "Frozen", "LocalRule", "Rule", "Update"]
