"""Which engine runs a task."""

import logging

from torch.optim import Optimizer

from projectlib.data import Sampler
from projectlib.engines.convolution import ConvolutionEngine
from projectlib.engines.cpu import CpuEngine
from projectlib.engines.cuda import GraphEngine
from projectlib.engines.eager import EagerEngine
from projectlib.ensemble import Ensemble
from projectlib.errors import UserError
from projectlib.rules import Rule

COMPILED = {"cpu": (CpuEngine, ConvolutionEngine), "cuda": (GraphEngine,)}
WORTH_COMPILING = 3000  # updates: eager takes about 2 ms each, compiling the CPU kernels 5 to 10 s

log = logging.getLogger(__name__)


def choose_engine(
    name: str, ensemble: Ensemble, rule: Rule, optimizer: Optimizer, sampler: Sampler, num_epochs: int
) -> type[EagerEngine]:
    """The engine for ``auto``, ``eager`` or ``compiled``.

    ``auto`` compiles what can be compiled and is long enough to be worth it.  Raises UserError where ``compiled``
    is asked for and there is nothing that covers the task.
    """
    if name == "eager":
        return EagerEngine
    task = (ensemble, rule, optimizer, sampler)
    engines = COMPILED.get(device_type(ensemble), ())
    compiled = next((engine for engine in engines if engine.lacks(*task) is None), None)
    reason = None if compiled else engines[0].lacks(*task) if engines else f"the device {device_type(ensemble)}"
    if name == "compiled" and reason:
        raise UserError(f"engine is 'compiled', but it does not cover {reason}; use engine=auto or engine=eager")
    updates = num_epochs * sampler.steps * ensemble.network.num_timesteps
    if reason or (name == "auto" and updates < WORTH_COMPILING):
        log.info("engine eager: %s", f"no kernel covers {reason}" if reason else f"{updates} updates are few")
        return EagerEngine
    return compiled


def device_type(ensemble: Ensemble) -> str:
    return next(iter(ensemble.parameters[-1].values())).device.type
