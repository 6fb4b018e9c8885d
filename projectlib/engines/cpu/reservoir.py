"""The CPU engine for reservoirs: numba kernels on the tensors' own memory, members spread over threads."""

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from projectlib.engines.cpu import optimizer as kernel_optimizer
from projectlib.engines.cpu.kernels import reservoir as reservoir_kernels
from projectlib.engines.cpu.kernels.compiler import cached_signatures
from projectlib.engines.eager_reservoir import Outputs, ReservoirEngine
from projectlib.engines.optimizers import initialize_optimizer
from projectlib.ensemble import Ensemble
from projectlib.machine import num_cores
from projectlib.models import Reservoir
from projectlib.rules import Delta

MOST_DENSE = 0.25  # a product over the non-zeros takes as long as BLAS takes over all of W_r


class CpuReservoirEngine(ReservoirEngine):
    """Eager's time steps as a compiled loop; each member runs through a window by itself, in one thread."""

    name = "compiled"
    worth_compiling = 3000  # time steps, each of which it makes about a millisecond shorter; compiling takes 3 s

    @staticmethod
    def unsupported(ensemble: Ensemble, rule: Delta, optimizer: Optimizer) -> str | None:
        """What of a task it does not support, in words; None if it supports it."""
        for part, own in ((ensemble.network, Reservoir), (rule, Delta)):
            if type(part) is not own:
                return f"{type(part).__name__} in place of {own.__name__}"
        recurrent = ensemble.parameters[0]["recurrent"][0]
        density = recurrent.count_nonzero().item() / recurrent.numel()
        if density > MOST_DENSE:
            return f"a reservoir of density {density:.2g}, which is more than {MOST_DENSE}"
        return kernel_optimizer.unsupported(optimizer, [{"readout": ensemble.parameters[0]["readout"]}])

    @staticmethod
    def is_compiled() -> bool:
        """Whether the cache has the time steps."""
        return bool(cached_signatures(reservoir_kernels.run))

    def compile(self) -> None:
        initialize_optimizer(self.optimizer)
        silence = torch.zeros(len(self.u), self.num_timesteps, 0)
        wait = self.run_timesteps(self.u.clone(), self.parameters["readout"], self.u, silence)
        wait()  # compiles, or reads its cache

    @cached_property
    def threads(self) -> dict[bool, ThreadPoolExecutor]:
        """For runs that learn and for those that do not, which fill the cores that one member leaves idle."""
        return {True: ThreadPoolExecutor(min(len(self.u), num_cores())), False: ThreadPoolExecutor(num_cores())}

    @cached_property
    def weights(self) -> list[reservoir_kernels.Weights]:
        """What the kernels read of each member."""
        scale = np.float32(self.network.recurrent_strength), np.float32(self.network.rate)
        members = zip(self.parameters["recurrent"].numpy(), self.parameters["feedback"].numpy(), strict=True)
        return [
            reservoir_kernels.Weights(reservoir_kernels.pack(recurrent), feedback, *scale)
            for recurrent, feedback in members
        ]

    def load_state_dict(self, saved: dict) -> None:
        super().load_state_dict(saved)
        self.__dict__.pop("weights", None)  # packed from the old weights

    def run_timesteps(
        self, u: Tensor, readout: Tensor, current: Tensor, noise: Tensor, target: Tensor | None = None
    ) -> Outputs:
        outputs = torch.empty(len(u), self.num_timesteps, readout.shape[1])
        learns = target is not None
        xi = target if learns else torch.zeros(readout.shape[1])
        optimizer, updates = kernel_optimizer.constants(self.optimizer), kernel_optimizer.count(self.optimizer)
        moments = [kernel_optimizer.moment(self.optimizer, readout, name) for name in ("exp_avg", "exp_avg_sq")]

        def run_member(member: int) -> None:
            reservoir_kernels.run(
                self.weights[member],
                reservoir_kernels.Readout(*(tensor[member].numpy() for tensor in (readout, *moments))),
                u[member].numpy(),
                current[member].numpy(),
                xi.numpy(),
                noise[member].numpy(),
                learns,
                optimizer,
                updates,
                outputs[member].numpy(),
            )

        running = self.threads[learns].map(run_member, range(len(u)))
        if learns:
            kernel_optimizer.set_count(self.optimizer, updates + self.num_timesteps)

        def wait() -> Tensor:
            list(running)
            return outputs

        return wait
