"""How steps are run: eager PyTorch is the reference, the others give the same numbers, up to rounding, faster."""

from projectlib.engines.choice import choose_engine, choose_reservoir_engine
from projectlib.engines.eager import EagerEngine

__all__ = ["EagerEngine", "choose_engine", "choose_reservoir_engine"]
