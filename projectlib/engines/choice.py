"""Which engine runs a task."""

import logging

from torch.optim import Optimizer

from projectlib.data import Sampler
from projectlib.engines.eager import EagerEngine
from projectlib.ensemble import Ensemble
from projectlib.rules import Rule

log = logging.getLogger(__name__)


def choose_engine(
    name: str, ensemble: Ensemble, rule: Rule, optimizer: Optimizer, sampler: Sampler, num_epochs: int
) -> type[EagerEngine]:
    """The engine class for ``auto``, ``eager`` or ``compiled``."""
    return EagerEngine
