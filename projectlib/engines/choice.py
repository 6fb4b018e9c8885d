"""Which engine runs a task."""

import logging
from collections.abc import Callable
from functools import partial

from torch.optim import Optimizer

from projectlib.data import Sampler
from projectlib.engines.cpu.cnn import ConvolutionEngine
from projectlib.engines.cpu.cnn_classifier import ConvolutionClassifierEngine
from projectlib.engines.cpu.cnn_stream import ConvolutionStreamEngine
from projectlib.engines.cpu.mlp import CpuEngine
from projectlib.engines.cpu.reservoir import CpuReservoirEngine
from projectlib.engines.cpu.stream import StreamEngine
from projectlib.engines.cuda_graph import GraphEngine
from projectlib.engines.eager import EagerEngine
from projectlib.engines.eager_reservoir import ReservoirEngine
from projectlib.ensemble import Ensemble
from projectlib.errors import UserError
from projectlib.rules import Delta, Rule

CONVOLUTIONS = (ConvolutionStreamEngine, ConvolutionClassifierEngine, ConvolutionEngine)
COMPILED = {"cpu": (CpuEngine, StreamEngine, *CONVOLUTIONS), "cuda": (GraphEngine,)}
"""By device, in the order in which they are asked whether they support a network.

For ``auto`` each says from how many updates on it is ``worth_compiling``, and whether it ``is_compiled`` already for
such layers: an earlier run may have left its code in a cache.
"""

log = logging.getLogger(__name__)


def choose_engine(
    name: str,
    ensemble: Ensemble,
    rule: Rule,
    optimizer: Optimizer,
    sampler: Sampler,
    num_epochs: int,
    required: bool = True,
) -> Callable[..., EagerEngine]:
    """The engine of a network for ``auto``, ``eager`` or ``compiled``; raises as ``choose`` does.

    required: raise UserError, rather than go on in eager, where ``compiled`` does not cover the task, or a captured
    graph fails or differs from eager's steps.
    """
    device = device_type(ensemble)
    layers = [type(layer) for layer in ensemble.network.layers]
    compiled = next((engine for engine in COMPILED.get(device, ()) if engine.supports(ensemble.network, rule)), None)
    if compiled:
        reason = compiled.unsupported(ensemble, rule, optimizer, sampler)
    else:
        names = ", ".join(sorted({layer.__name__ for layer in layers}))
        layers_of = f"such a network of {names}{' in a stream' if rule.streams else ''}"
        reason = layers_of if device in COMPILED else f"the device {device}"
    updates = num_epochs * sampler.steps * ensemble.network.num_timesteps
    is_compiled = partial(compiled.is_compiled, layers, rule) if compiled else None
    engine = choose(name, EagerEngine, compiled, reason, updates, ensemble.num_models, is_compiled, required)
    return partial(engine, required=required) if engine is GraphEngine else engine


def choose_reservoir_engine(
    name: str, ensemble: Ensemble, rule: Delta, optimizer: Optimizer, num_updates: int, required: bool = True
) -> type[ReservoirEngine]:
    """The engine of a reservoir for ``auto``, ``eager`` or ``compiled``; raises as ``choose`` does."""
    device, compiled = device_type(ensemble), CpuReservoirEngine
    reason = f"a reservoir on the device {device}"
    if device == "cpu":
        reason = compiled.unsupported(ensemble, rule, optimizer)
    models = ensemble.num_models
    return choose(name, ReservoirEngine, compiled, reason, num_updates, models, compiled.is_compiled, required)


def choose(
    name: str,
    eager: type,
    compiled: type | None,
    reason: str | None,
    updates: int,
    num_models: int,
    is_compiled: Callable[[], bool] | None,
    required: bool,
) -> type:
    """``auto`` takes ``compiled`` if it covers the task, and is cached already or the run is long enough.

    Ten models take eager about twice as long as one, and compilation is the same for all.
    reason: what ``compiled`` does not cover, if anything.  Raises UserError where ``compiled`` is asked for, and not
    only what a checkpoint had (``required``), and there is such a reason.
    """
    if name == "compiled" and reason and required:
        raise UserError(f"engine is 'compiled', but it does not cover {reason}; use engine=auto or engine=eager")
    if name == "eager":
        return eager
    if reason:
        log.info("engine eager: no compiled engine covers %s", reason)
        return eager
    assert compiled is not None  # or there would be a reason
    assert is_compiled is not None
    is_short = updates * (1 + num_models / 10) < compiled.worth_compiling
    if name == "auto" and is_short and not is_compiled():
        log.info("engine eager: %d updates are few, and nothing is compiled yet", updates)
        return eager
    return compiled


def device_type(ensemble: Ensemble) -> str:
    return next(iter(ensemble.parameters[-1].values())).device.type
