"""A look inside a network at chosen epochs, as a few small arrays: what figures need and metrics do not say."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils._pytree import tree_map

from projectlib.data import Split
from projectlib.ensemble import Ensemble, over_members
from projectlib.hsic import kernel_matrix, kernel_row, modulation
from projectlib.models import Network
from projectlib.models.network import Parameters, State
from projectlib.modulators import Sample
from projectlib.rules import TrainingState
from projectlib.training.spikes import has_spiking_layers, spike_trains

SEED = 0  # all runs on a data set are looked at with the same samples
WINDOW_SIZES = (2, 4, 8, 16, 32, 64)
NUM_WINDOWS = 16
NUM_SAMPLES = 100  # of a kernel matrix
SIGMA = 1.0  # its bandwidth, one for all rules: layers are normalised
NUM_UNITS = 32  # inputs and neurons of the layer whose three factors are kept


class Probe:
    """Looks at an ensemble on a fixed choice of training samples, and changes nothing.

    epochs: when; 0 is before training.  train: the training samples, from which windows and samples are chosen.
    gamma, sigmas: of the objective.  window: samples in a window of this run.  state: the state of the models, stacked.
    """

    def __init__(
        self,
        epochs: Collection[int],
        ensemble: Ensemble,
        rule: Any,
        train: Split,
        num_classes: int,
        gamma: float,
        sigmas: tuple[float, float, float],
        window: int,
        state: Callable[[], TrainingState],
    ):
        self.epochs, self.ensemble, self.rule = frozenset(epochs), ensemble, rule
        self.gamma, self.sigmas, self.window, self.state = gamma, tuple(sigmas), window, state
        self.has_memory = rule.own_memory is not None and ensemble.num_layers > 1
        of_window = bool(rule.modulator) and rule.modulator.applies_window_signal
        self.has_signal = of_window and ensemble.num_layers > 1
        order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(SEED))
        self.sizes = sorted(size for size in {*WINDOW_SIZES, window} if size <= len(order))
        longest = max(self.sizes, default=len(order))
        self.windows = [
            (train.inputs[indices], one_hot(train.labels[indices], num_classes).to(train.inputs.dtype))
            for indices in order.to(train.labels.device).split(longest)[:NUM_WINDOWS]
            if len(indices) == longest
        ]
        self.samples = by_class(train, num_classes)

    def __call__(self, epoch: int) -> dict[str, Tensor]:
        """The arrays of an epoch, nothing at an epoch that was not chosen.  L hidden layers:

            epoch           ()
            labels          (n,)       of the n samples of the kernel matrices, sorted
            kernel_layer0   (n, n)     of the first member's activations, one matrix per layer

        of a network that fires, of its first member and the first of the samples of each class:

            spikes_layer0   (time steps, num_classes, d)   1 for a spike, from rest; one per spiking layer

        of a rule whose signal comes from the window:

            window_sizes    (S,)
            cosine          (num_models, L, S)   between the applied signal and the exact gradient, mean over windows

        of a memory:

            of_classes      (num_classes, d)     what that of the last hidden layer has learnt of each; first member

        and of both:

            input           (i,)       of the last hidden layer at the newest sample of one window; first member
            signal          (o,)       what its neurons receive there
            weight_change   (o, i)     the rule's step there, before the optimizer

        At most 32 inputs and neurons are kept, evenly spaced; a convolution's pixels are averaged, its kernel is
        summed.  These three are not kept of a layer without a weight between what it receives and its neurons.
        """
        if epoch not in self.epochs:
            return {}
        network, member = self.ensemble.network, self.ensemble.member(0)
        inputs, labels = self.samples
        with torch.no_grad():
            outputs, _ = settle(network, member, inputs)
            arrays = {"epoch": torch.tensor(epoch), "labels": labels}
            for index, z in enumerate(outputs[:-1]):
                arrays[f"kernel_layer{index}"] = kernel_matrix(z, SIGMA)
            if has_spiking_layers(network):
                first = [int((labels == label).nonzero()[0]) for label in labels.unique()]
                trains = spike_trains(network, member, inputs[first])
                arrays |= {f"spikes_layer{index}": train.to(torch.uint8) for index, train in enumerate(trains)}
            if self.has_signal:
                arrays |= {"window_sizes": torch.tensor(self.sizes), "cosine": self.cosine()}
        if not self.has_signal and not self.has_memory:
            return arrays
        memories = tree_map(lambda stacked: stacked[0], self.state().rule)
        window = 1 if self.has_memory else self.window
        x, y = (tensor[-window:] for tensor in self.windows[0])
        if self.has_memory:
            modulator = self.rule.own_memory
            arrays["of_classes"] = modulator.of_classes(modulator.remembered(memories[-2]))
        return arrays | three_factors(network, member, self.rule, memories, x, y)

    def cosine(self) -> Tensor:
        """(num_models, L, S), mean over windows; a window whose signal or gradient vanishes is left out."""
        contexts = [[self.rule.prepare(x[-size:], y[-size:]) for size in self.sizes] for x, y in self.windows]

        def of_member(parameters):
            return torch.stack(
                [
                    self.cosine_in_window(parameters, x, y, shared)
                    for (x, y), shared in zip(self.windows, contexts, strict=True)
                ]
            )

        return over_members(of_member, self.ensemble.parameters).nanmean(1)

    def cosine_in_window(self, parameters: Parameters, x: Tensor, y: Tensor, contexts: list) -> Tensor:
        """(L, S): the last samples of one long window are the shorter windows."""
        outputs, _ = settle(self.ensemble.network, parameters, x)
        rows = []
        for z in outputs[:-1]:
            applied = [self.rule.signal(z[-size:], shared) for size, shared in zip(self.sizes, contexts, strict=True)]
            exact = [self.exact_signal(x[-size:], y[-size:], z[-size:]) for size in self.sizes]
            rows.append(torch.stack([cosine(a, b) for a, b in zip(applied, exact, strict=True)]))
        return torch.stack(rows)

    def exact_signal(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """The gradient of the objective with respect to the newest of z (N, ...), of the shape of one."""
        sigma_x, sigma_y, sigma_z = self.sigmas
        kx, ky, kz = kernel_matrix(x, sigma_x), kernel_matrix(y, sigma_y), kernel_row(z, sigma_z)
        return modulation(kx, ky, kz, z, self.gamma, sigma_z, form="exact")


def settle(network: Network, parameters: Parameters, x: Tensor) -> tuple[list[Tensor], State]:
    """Every layer's output to x (N, ...) at the last time step from rest, and the state before that step."""
    state = network.initial_state(len(x))
    for _ in range(network.num_timesteps - 1):
        _, state = network.run(parameters, state, x)
    outputs, _ = network.run(parameters, state, x)
    return outputs, state


def three_factors(
    network: Network, parameters: Parameters, rule: Any, memories: Any, x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """Input (i,), signal (o,) and weight change (o, i) of the last hidden layer at a window's newest sample.

    memories: what the rule remembers.  x: (N, ...) inputs.  y: (N, num_classes) one-hot.  The network starts from rest.
    """
    _, layers = settle(network, parameters, x)
    context = rule.prepare(x, y)
    update = rule(network, parameters, TrainingState(layers, memories), x, y, context)
    received, z = [x, *update.outputs][-3:-1]
    if rule.own_memory:
        _, xi = rule.own_memory.recall(Sample(x[-1], y[-1], z[-1]), memories[-2])
    else:
        xi = rule.signal(z, context)
    h, xi = received[-1], xi.reshape(-1, z.shape[-1]).mean(0)  # of a convolution the mean over places
    source, weights = h.flatten(), [g for g in update.gradients[-2].values() if g.ndim >= 2]
    gradient = weights[0] if len(weights) == 1 else xi  # one map of what is received
    if gradient.ndim > 2 and h.ndim == 3:  # a convolution's channels are last, but first in an image
        channels = h if len(update.outputs) > 2 else h.movedim(0, -1)
        source, gradient = channels.flatten(0, 1).mean(0), gradient.flatten(2).sum(2)
    if gradient.shape != (len(xi), len(source)):
        return {}
    neurons, inputs = evenly(len(xi)), evenly(len(source))
    return {"input": source[inputs], "signal": xi[neurons], "weight_change": -gradient[neurons][:, inputs]}


def evenly(num_units: int) -> list[int]:
    """At most ``NUM_UNITS`` indices below num_units, evenly spaced."""
    return torch.linspace(0, num_units - 1, min(num_units, NUM_UNITS)).round().int().tolist()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between two tensors of one shape, however small they are; NaN where one is zero."""
    a, b = a.flatten(), b.flatten()
    a, b = a / a.abs().amax(), b / b.abs().amax()  # squares of a small signal are no float32 numbers
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


def by_class(train: Split, num_classes: int) -> Split:
    """The first samples of every class, sorted by class, about ``NUM_SAMPLES`` in all."""
    num = max(1, NUM_SAMPLES // num_classes)
    chosen = torch.cat([(train.labels == label).nonzero().flatten()[:num] for label in range(num_classes)])
    return Split(train.inputs[chosen], train.labels[chosen])
