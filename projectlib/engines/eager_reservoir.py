"""Reservoirs that learn the modulatory signal, one window after the other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from projectlib.data import Epoch, Sampler
from projectlib.engines.optimizers import load_optimizer
from projectlib.ensemble import NOISE, Ensemble, generator_of, over_members
from projectlib.models import Reservoir
from projectlib.rules import Delta

Outputs = Callable[[], Tensor]
"""Outputs (num_models, time steps, zdim) that may still be on their way; a call waits for them."""


class ReservoirSamples(NamedTuple):
    """What a reservoir receives: inputs x (n, ...), labels y (n, classes) one-hot, activations z (n, zdim)."""

    x: Tensor
    y: Tensor
    z: Tensor


class ReservoirEngine:
    """Trains the readouts of reservoirs, stacked over members, on the windows of a few samples.

    A window is presented for ``num_timesteps`` time steps, with an update of the readout at each; the state u
    carries over from window to window.  Around it the readout is scored twice without learning, for as many time
    steps from a state that is then discarded: before the window's first update and after its last.

    ensemble: the reservoirs.  optimizer: of their stacked readouts (num_models, zdim, nhidden).  samples: what is
    learnt, x (n, features).  window: samples in one.  seeds: of the members' noise.

    The compiled engine is a subclass that lets the time steps run faster.
    """

    name = "eager"
    metric_names = ("loss", "nmse_after", "nmse_before")

    def __init__(
        self,
        ensemble: Ensemble,
        rule: Delta,
        optimizer: Optimizer,
        samples: ReservoirSamples,
        window: int,
        num_timesteps: int,
        seeds: Sequence[int],
    ):
        self.network = cast(Reservoir, ensemble.network)
        self.rule, self.optimizer, self.num_timesteps = rule, optimizer, num_timesteps
        (self.parameters,) = ensemble.parameters
        self.noise = [generator_of(seed, NOISE) for seed in seeds]
        self.samples, device = samples, samples.x.device
        self.sampler = Sampler(len(samples.x), window, sliding=True)
        num_models, zdim, num_hidden = self.parameters["readout"].shape
        self.u = torch.zeros(num_models, num_hidden, device=device)
        self.errors = torch.zeros(num_models, len(self.metric_names), dtype=torch.float64)
        self.targets = torch.zeros(self.sampler.steps, zdim, device=device)
        self.outputs = torch.zeros(self.sampler.steps, num_timesteps, zdim, device=device)  # of the first member
        self.steps_in_epoch = 0

    def compile(self) -> None:
        """What has to be done once before the first step: nothing."""

    def draw_epoch(self, generator: torch.Generator) -> Epoch:
        return self.sampler.epoch(generator).to(self.u.device)

    def begin_epoch(self) -> None:
        self.errors.zero_()
        self.steps_in_epoch = 0

    def run(self, epoch: Epoch, start: int, stop: int) -> None:
        """Train on the windows [start, stop) of an epoch, in place."""
        windows = (self.sampler.window_indices(epoch, step) for step in range(start, stop))
        presented = self.present_all(
            (ReservoirSamples(*(a[indices] for a in self.samples)) for indices in windows), learn=True
        )
        for step, (xi, outputs, errors) in enumerate(presented, start):
            self.targets[step], self.outputs[step] = xi, outputs[0]
            self.errors += errors
        self.steps_in_epoch += stop - start

    def measure(self) -> dict[str, Tensor]:
        """The score of the samples themselves; their targets and outputs become the epoch's traces."""
        self.targets, self.outputs, metrics = self.run_through(self.samples)
        return metrics

    def score(self, samples: ReservoirSamples) -> dict[str, Tensor]:
        """The metrics of one pass through samples in their own order, with learning off; nothing changes."""
        return self.run_through(samples)[2]

    def run_through(self, samples: ReservoirSamples) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Targets (windows, zdim), outputs (windows, time steps, zdim) of the first member, and the metrics."""
        starts = range(len(samples.x) - self.sampler.size + 1)
        windows = (ReservoirSamples(*(a[start : start + self.sampler.size] for a in samples)) for start in starts)
        rest, noise = self.u.clone(), [generator.get_state() for generator in self.noise]
        presented = [*self.present_all(windows, learn=False)]
        self.u.copy_(rest)
        for generator, state in zip(self.noise, noise, strict=True):
            generator.set_state(state)
        targets, outputs, errors = (torch.stack(parts) for parts in zip(*presented, strict=True))
        return targets, outputs[:, 0], means(errors.sum(0), targets)

    def present_all(self, windows: Iterable[ReservoirSamples], learn: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """``present`` of windows in turn, with their errors (num_models, 3): one is scored while the next learns."""
        previous = None
        for window in windows:
            current = self.present(window, learn)
            if previous:
                yield finish(*previous)
            previous = current
        if previous:
            yield finish(*previous)

    def present(self, window: ReservoirSamples, learn: bool) -> tuple[Tensor, Tensor, Outputs, Outputs]:
        """One window, scored before, during and after its updates.

        Returns its target xi (zdim,), the outputs (num_models, time steps, zdim) during its updates, and those after
        and before them, which may still be on their way.
        """
        x, y, z = window
        xi = self.rule.target(x, y, z)
        newest = torch.cat([x[-1], y[-1], z[-1]])
        current = over_members(lambda p: self.network.current(p, newest), self.parameters)

        u, readout = self.u.clone(), self.parameters["readout"]
        untrained = readout.clone() if learn else readout
        during = self.run_timesteps(self.u, readout, current, self.draw_noise(), xi if learn else None)()
        trained = readout.clone() if learn else readout
        after = self.run_timesteps(self.u.clone(), trained, current, self.draw_noise())
        # a readout that rests is the same before as during
        before = self.run_timesteps(u, untrained, current, self.draw_noise()) if learn else lambda: during
        return xi, during, after, before

    def run_timesteps(
        self, u: Tensor, readout: Tensor, current: Tensor, noise: Tensor, target: Tensor | None = None
    ) -> Outputs:
        """A window's time steps for all members, from the states u (num_models, nhidden), changed in place.

        readout: (num_models, zdim, nhidden), taught the target (zdim,) in place where there is one.
        current: (num_models, nhidden).  noise: as it is drawn.  Returns the outputs (num_models, time steps, zdim),
        when they are asked for.
        """
        outputs = []
        for step in noise.unbind(1):
            added = step.split([u.shape[1], readout.shape[1]], -1) if self.network.noise else ()
            new, r, o = over_members(self.network.step, {**self.parameters, "readout": readout}, u, current, added)
            u.copy_(new)
            outputs.append(o)
            if target is not None:
                gradient = torch.vmap(self.rule.gradient, (0, 0, None))(r, o, target)
                readout.grad = gradient.contiguous()  # as fused optimizers take it to be, unchecked
                self.optimizer.step()
        return lambda: torch.stack(outputs, 1)

    def draw_noise(self) -> Tensor:
        """Noise of a window on rates and outputs, (num_models, time steps, nhidden + zdim); (..., 0) at an sd of 0."""
        num_models, zdim, num_hidden = self.parameters["readout"].shape
        if not self.network.noise:
            return torch.zeros(num_models, self.num_timesteps, 0)
        draws = [torch.randn(self.num_timesteps, num_hidden + zdim, generator=generator) for generator in self.noise]
        return (self.network.noise * torch.stack(draws)).to(self.u.device)

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


def finish(xi: Tensor, during: Tensor, after: Outputs, before: Outputs) -> tuple[Tensor, Tensor, Tensor]:
    """A window with its mean squared errors during, after and before its updates, (num_models, 3), on the host."""
    errors = [(outputs - xi).square().mean((1, 2)) for outputs in (during, after(), before())]
    return xi, during, torch.stack(errors, 1).cpu().double()


def means(errors: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Metrics of windows from their summed squared errors (num_models, 3) and their targets (windows, zdim).

    What is relative to the variance of the targets is left out where they are a single number, which has none.
    """
    loss, after, before = (errors / len(targets)).unbind(1)
    if targets.numel() == 1:
        return {"loss": loss}
    variance = targets.cpu().double().var(correction=0)
    return {"loss": loss, "nmse_after": after / variance, "nmse_before": before / variance}
