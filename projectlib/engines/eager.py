"""The reference engine: any model, rule and optimizer, one step at a time in PyTorch."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from projectlib.data import Dataset, Epoch, Sampler, gather
from projectlib.engines.optimizers import load_optimizer
from projectlib.ensemble import Ensemble, over_members
from projectlib.errors import UserError
from projectlib.models.network import Parameters
from projectlib.rules import Rule, TrainingState


class Monitor(Protocol):
    """Further metrics of a step; ``training.metrics.HSICMonitor`` is one."""

    def names(self, num_layers: int) -> tuple[str, ...]: ...
    def __call__(self, outputs: list[Tensor], x: Tensor, y: Tensor) -> list[Tensor]: ...


class EagerEngine:
    """Trains an ensemble through ranges of steps of an epoch.

    All members see the same windows.  ``totals`` (num_models, metrics) sums the training metrics over the steps
    of the epoch so far; they come from the forward pass that training does anyway, before its update.

    Another engine is a subclass that does the same steps faster, and says which networks and rules it
    ``supports``, what of a task is ``unsupported``, and from how many updates on it is ``worth_compiling``.
    """

    name = "eager"

    def __init__(
        self,
        ensemble: Ensemble,
        rule: Rule,
        optimizer: Optimizer,
        dataset: Dataset,
        sampler: Sampler,
        monitor: Monitor | None = None,
    ):
        self.ensemble, self.rule, self.optimizer = ensemble, rule, optimizer
        self.sampler, self.monitor = sampler, monitor
        self.source, self.num_classes = sampler.source(dataset.train), dataset.num_classes
        self.metric_names = ("loss", "accuracy", *(monitor.names(ensemble.num_layers) if monitor else ()))
        inputs = torch.zeros(sampler.size, *dataset.input_shape, dtype=self.source.inputs.dtype)
        labels = inputs.new_zeros(sampler.size, dataset.num_classes)
        self.state = ensemble.draw_state(
            lambda network, generator: rule.initial_state(network, inputs, labels, generator)
        )
        device = self.source.inputs.device
        precision = torch.float32 if device.type == "mps" else torch.float64
        self.totals = torch.zeros(ensemble.num_models, len(self.metric_names), dtype=precision, device=device)
        self.steps_in_epoch = 0

    def compile(self) -> None:
        """What has to be done once before the first step: nothing."""

    def draw_epoch(self, generator: torch.Generator) -> Epoch:
        """The order and augmentation of a new epoch, on the device."""
        return self.sampler.epoch(generator).to(self.source.inputs.device)

    def begin_epoch(self) -> None:
        self.totals.zero_()
        self.steps_in_epoch = 0

    def run(self, epoch: Epoch, start: int, stop: int) -> None:
        """Train on the windows [start, stop) of an epoch on the device, in place."""
        for step in range(start, stop):
            self.present(*self.window(self.sampler, epoch, step))
        self.steps_in_epoch += stop - start

    def window(self, sampler: Sampler, epoch: Epoch, step: int | Tensor) -> tuple[Tensor, Tensor, Any]:
        """What all members share of a step: x (N, ...), y (N, num_classes) one-hot, and what the rule makes of them."""
        x, labels = gather(self.source, sampler, epoch, step)
        y = one_hot(labels, self.num_classes).to(x.dtype)
        return x, y, self.rule.prepare(x, y)

    def present(self, x: Tensor, y: Tensor, context: Any) -> None:
        """All time steps of one window x (N, ...), y (N, num_classes), with an update of all members at each."""
        for _ in range(self.ensemble.network.num_timesteps):
            gradients, state, measured = self.advance(x, y, context)
            if state is not self.state:  # an engine may have changed it in place
                copy_tree_(self.state, state)
            for layer, gradient in zip(self.ensemble.parameters, gradients, strict=True):
                for name, of_parameter in gradient.items():
                    layer[name].grad = of_parameter.contiguous()  # as fused optimizers take it to be, unchecked
            self.optimizer.step()
            self.totals += measured / self.ensemble.network.num_timesteps

    def advance(self, x: Tensor, y: Tensor, context: Any) -> tuple[Parameters, TrainingState, Tensor]:
        """One time step of all members: their gradients, new states and metrics (num_models, metrics).

        Raises UserError for a rule, layer or modulator that cannot run for many models at once.
        """

        def member(parameters, state):
            update = self.rule(self.ensemble.network, parameters, state, x, y, context)
            return update.gradients, update.state, self.measure(update.outputs, x, y)

        try:
            return over_members(member, self.ensemble.parameters, self.state)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{type(self.rule).__name__} cannot run for many models at once ({reason}): a rule, layer or modulator "
                "draws at random in its initial state only, and does not look at the values of tensors in Python"
            ) from error

    def measure(self, outputs: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        """One member's metrics of a window, (metrics,), in the order of ``metric_names``."""
        logits = outputs[-1]
        correct = (logits.argmax(-1) == y.argmax(-1)).to(logits.dtype)
        values = [cross_entropy(logits, y), correct.mean()]
        if self.monitor:
            values += self.monitor(outputs, x, y)
        return torch.stack(values).to(self.totals.dtype)

    def metrics(self) -> dict[str, Tensor]:
        """The running mean over the epoch's steps so far: (num_models,) on the host by name."""
        means = (self.totals / self.steps_in_epoch).cpu()
        return dict(zip(self.metric_names, means.unbind(1), strict=True))

    def traces(self) -> dict[str, Tensor]:
        """Arrays to be kept of the epoch; a network has none."""
        return {}

    def first_bad_layer(self, member: int) -> str | None:
        """The first layer of a member with a weight that is not finite, for the error that stops a run."""
        for index, layer in enumerate(self.ensemble.member(member)):
            if not all(p.isfinite().all() for p in layer.values()):
                return f"layer {index}"
        return None

    def state_dict(self) -> dict:
        """All that changes while training, as tensors and plain values."""
        return {
            "parameters": self.ensemble.parameters,
            "state": tree_leaves(self.state),
            "optimizer": self.optimizer.state_dict(),
            "totals": self.totals.cpu().double(),  # on MPS, which has no float64, too
            "steps_in_epoch": self.steps_in_epoch,
        }

    def load_state_dict(self, saved: dict) -> None:
        """Go on from a ``state_dict`` of the same models, in place."""
        for layer, saved_layer in zip(self.ensemble.parameters, saved["parameters"], strict=True):
            for name, tensor in layer.items():
                tensor.copy_(saved_layer[name])
        for u, saved_u in zip(tree_leaves(self.state), saved["state"], strict=True):
            u.copy_(saved_u)
        load_optimizer(self.optimizer, saved["optimizer"])
        self.totals.copy_(saved["totals"])
        self.steps_in_epoch = saved["steps_in_epoch"]


def copy_tree_(old: Any, new: Any) -> None:
    """Copy the tensors of pytree ``new`` into those of ``old``, in place; the two may share memory."""
    places, parts = tree_leaves(old), tree_leaves(new)
    storages = {place.untyped_storage().data_ptr() for place in places}
    moved = [
        (place, part.clone() if part.untyped_storage().data_ptr() in storages else part)
        for place, part in zip(places, parts, strict=True)
        if not (place.data_ptr() == part.data_ptr() and place.stride() == part.stride())  # as it was: costs nothing
    ]
    for place, part in moved:
        place.copy_(part)
