"""Reservoirs that learn the modulatory signal, one window after the other."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from projectlib.data import Epoch, Sampler
from projectlib.engines.optimizers import load_optimizer
from projectlib.ensemble import Ensemble, over_members
from projectlib.rules import Delta

NOISE_STREAM = 1 << 32  # keeps a member's noise apart from its weights


class Presented(NamedTuple):
    """What a reservoir receives: inputs x (n, ...), labels y (n, classes) one-hot, activations z (n, zdim)."""

    x: Tensor
    y: Tensor
    z: Tensor


class ReservoirEngine:
    """Trains the readouts of reservoirs, stacked over members, on the windows of a few samples.

    A window is presented for ``num_timesteps`` time steps, with an update of the readout at each; the state u
    carries over from window to window.  Around it the readout is scored twice without learning, for as many time
    steps from a state that is then discarded: before the window's first update and after its last.

    ensemble: the reservoirs.  samples: what is learnt, x (n, features).  window: samples in one.  make_optimizer:
    the optimizer of the stacked readouts (num_models, zdim, nhidden).  seeds: of the members' noise.
    """

    name = "eager"
    metric_names = ("loss", "nmse_after", "nmse_before")

    def __init__(
        self,
        ensemble: Ensemble,
        rule: Delta,
        samples: Presented,
        window: int,
        num_timesteps: int,
        make_optimizer: Callable[[Tensor], Optimizer],
        seeds: Sequence[int],
    ):
        self.network, self.rule, self.num_timesteps = ensemble.network, rule, num_timesteps
        (self.parameters,) = ensemble.parameters
        self.optimizer = make_optimizer(self.parameters["readout"])
        self.noise = [torch.Generator().manual_seed(seed + NOISE_STREAM) for seed in seeds]
        self.samples, device = samples, samples.x.device
        self.sampler = Sampler(len(samples.x), window, sliding=True)
        num_models, zdim, num_hidden = self.parameters["readout"].shape
        self.u = torch.zeros(num_models, num_hidden, device=device)
        self.errors = torch.zeros(num_models, len(self.metric_names), dtype=torch.float64)
        self.targets = torch.zeros(self.sampler.steps, zdim, device=device)
        self.outputs = torch.zeros(self.sampler.steps, num_timesteps, zdim, device=device)  # of the first member
        self.steps_in_epoch = 0

    def compile(self) -> float:
        """Nothing to compile; returns 0 seconds."""
        return 0.0

    def draw_epoch(self, generator: torch.Generator) -> Epoch:
        return self.sampler.epoch(generator).to(self.u.device)

    def begin_epoch(self) -> None:
        self.errors.zero_()
        self.steps_in_epoch = 0

    def run(self, epoch: Epoch, start: int, stop: int) -> None:
        """Train on the windows [start, stop) of an epoch, in place."""
        for step in range(start, stop):
            indices = self.sampler.window_indices(epoch, step)
            xi, outputs, errors = self.present(Presented(*(a[indices] for a in self.samples)), learn=True)
            self.targets[step], self.outputs[step] = xi, outputs[:, 0]
            self.errors += errors
        self.steps_in_epoch += stop - start

    def measure(self) -> dict[str, Tensor]:
        """The score of the samples themselves; their targets and outputs become the epoch's traces."""
        self.targets, self.outputs, metrics = self.go_through(self.samples)
        return metrics

    def score(self, samples: Presented) -> dict[str, Tensor]:
        """The metrics of one pass through samples in their own order, with learning off; nothing changes."""
        return self.go_through(samples)[2]

    def go_through(self, samples: Presented) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Targets (windows, zdim), outputs (windows, time steps, zdim) of the first member, and the metrics."""
        size = self.sampler.size
        rest, noise = self.u.clone(), [generator.get_state() for generator in self.noise]
        windows = [
            self.present(Presented(*(a[start : start + size] for a in samples)), learn=False)
            for start in range(len(samples.x) - size + 1)
        ]
        self.u.copy_(rest)
        for generator, state in zip(self.noise, noise, strict=True):
            generator.set_state(state)
        targets, outputs, errors = (torch.stack(parts) for parts in zip(*windows, strict=True))
        return targets, outputs[:, :, 0], means(errors.sum(0), targets)

    def present(self, window: Presented, learn: bool) -> tuple[Tensor, Tensor, Tensor]:
        """One window, scored before, during and after its updates.

        Returns its target xi (zdim,), the outputs during it (time steps, num_models, zdim), and its mean squared
        errors during, after and before its updates (num_models, 3), on the host.
        """
        x, y, z = window
        xi = self.rule.target(x, y, z)
        newest = torch.cat([x[-1], y[-1], z[-1]])
        current = over_members(lambda p: self.network.current(p, newest), self.parameters)

        # the run before learning and the run that learns start from one state: they share the recurrent product
        untrained = self.parameters["readout"].clone()
        both, u = [], self.u.expand(2, -1, -1).transpose(0, 1)
        for _ in range(self.num_timesteps):
            readouts = torch.stack([untrained, self.parameters["readout"]], 1)
            u, r, o = self.step(u, current, readouts)
            both.append(o)
            if learn:
                gradient = torch.vmap(self.rule.gradient, (0, 0, None))(r[:, 1], o[:, 1], xi)
                self.parameters["readout"].grad = gradient.contiguous()
                self.optimizer.step()
        before, during = torch.stack(both).unbind(2)
        self.u = u[:, 1]

        trained, u, after = self.parameters["readout"][:, None], self.u[:, None], []
        for _ in range(self.num_timesteps):
            u, _, o = self.step(u, current, trained)
            after.append(o[:, 0])

        errors = [(outputs - xi).square().mean((0, 2)) for outputs in (during, torch.stack(after), before)]
        return xi, during, torch.stack(errors, 1).cpu().double()

    def step(self, u: Tensor, current: Tensor, readouts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One time step of all members' states u (num_models, S, nhidden), each with a readout of its own."""
        parameters = {**self.parameters, "readout": readouts}
        return over_members(self.network.step, parameters, u, current, self.draw_noise(u.shape[1]))

    def draw_noise(self, num_states: int) -> tuple[Tensor, Tensor] | tuple[()]:
        """Noise on the rates (num_models, S, nhidden) and the outputs (num_models, S, zdim); none at an sd of 0."""
        if not self.network.noise:
            return ()
        sizes = [self.u.shape[1], self.samples.z.shape[1]]
        draws = [torch.randn(num_states, sum(sizes), generator=generator) for generator in self.noise]
        rates, outputs = (self.network.noise * torch.stack(draws).to(self.u.device)).split(sizes, -1)
        return rates, outputs

    def metrics(self) -> dict[str, Tensor]:
        """Means over the epoch's windows so far, (num_models,) each; nmse is relative to the targets' variance."""
        return means(self.errors, self.targets[: self.steps_in_epoch])

    def traces(self) -> dict[str, Tensor]:
        """Target and output of the first member while it learnt, (windows, time steps, zdim) each."""
        return {"target": self.targets[:, None].expand_as(self.outputs).clone(), "output": self.outputs.clone()}

    def first_bad_layer(self, member: int) -> str | None:
        return None if self.parameters["readout"][member].isfinite().all() else "the readout"

    def state_dict(self) -> dict:
        """All that changes while training, as tensors and plain values."""
        return {
            "parameters": [self.parameters],
            "u": self.u,
            "optimizer": self.optimizer.state_dict(),
            "noise": [generator.get_state() for generator in self.noise],
            "errors": self.errors,
            "targets": self.targets,
            "outputs": self.outputs,
            "steps_in_epoch": self.steps_in_epoch,
        }

    def load_state_dict(self, saved: dict) -> None:
        """Go on from a ``state_dict`` of the same reservoirs, in place."""
        for name, tensor in self.parameters.items():
            tensor.copy_(saved["parameters"][0][name])
        for name in ("u", "errors", "targets", "outputs"):
            getattr(self, name).copy_(saved[name])
        for generator, state in zip(self.noise, saved["noise"], strict=True):
            generator.set_state(state.cpu())
        load_optimizer(self.optimizer, saved["optimizer"])
        self.steps_in_epoch = saved["steps_in_epoch"]


def means(errors: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Metrics of windows from their summed squared errors (num_models, 3) and their targets (windows, zdim)."""
    loss, after, before = (errors / len(targets)).unbind(1)
    variance = targets.cpu().double().var(correction=0)
    return {"loss": loss, "nmse_after": after / variance, "nmse_before": before / variance}
