"""The CPU engine: numba kernels on the tensors' own memory, members spread over threads."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from projectlib.data import Epoch, Sampler
from projectlib.engines.cpu import optimizer as kernel_optimizer
from projectlib.engines.cpu.kernels import hsic as hsic_kernels
from projectlib.engines.cpu.kernels import mlp as kernels
from projectlib.engines.cpu.kernels.compiler import cached_signatures
from projectlib.engines.cpu.kernels.similarity import Groups
from projectlib.engines.eager import EagerEngine
from projectlib.engines.optimizers import initialize_optimizer
from projectlib.ensemble import Ensemble
from projectlib.hsic import LABEL_FORMS
from projectlib.machine import num_cores
from projectlib.models.leaky_integrator import LeakyIntegrator
from projectlib.models.mlp import DenseLayer, Readout
from projectlib.models.network import Network
from projectlib.rules import Rule
from projectlib.rules.rule import own_kernel

RULES = {
    "biohsic": kernels.BIOHSIC,
    "frozen": kernels.FROZEN,
    "backprop": kernels.BACKPROP,
    "feedback-alignment": kernels.BACKPROP,
    "direct-feedback-alignment": kernels.DIRECT,
    "local-classifier": kernels.CLASSIFIER,
    "hsic": kernels.HSIC,
    "similarity-matching": kernels.SIMILARITY,
    "phsic": kernels.PLAUSIBLE,
}
"""By their ``kernel``; feedback alignment differs from back-propagation in what it sends errors through."""
COMPARE = kernels.HSIC, kernels.SIMILARITY, kernels.PLAUSIBLE


class CpuEngine(EagerEngine):
    """Eager's steps as compiled loops; each member runs through a range of windows by itself, in one thread.

    Weights, moments, layer states and totals are changed in place, so both engines can go on from each other.
    """

    name = "compiled"
    rule: Any  # one of RULES
    monitor: Any  # an HSICMonitor, if any
    worth_compiling = 3300  # updates of one model: eager takes about 3 ms each, compiling 10 s

    @staticmethod
    def supports(network: Network, rule: Rule) -> bool:
        """Whether it covers such a network under such a rule."""
        return not rule.streams and is_covered(network)

    @staticmethod
    def unsupported(ensemble: Ensemble, rule: Rule, optimizer: Optimizer, sampler: Sampler) -> str | None:
        """What of a task it does not support, in words; None if it supports it."""
        if own_kernel(rule) not in RULES:
            return f"the rule {type(rule).__name__}"
        if rule.modulator and own_kernel(rule.modulator) != "window":
            return f"the modulator {type(rule.modulator).__name__}"
        if reason := kernel_optimizer.unsupported(optimizer, ensemble.parameters, rule.trains_hidden):
            return reason
        return "augmented data" if sampler.augmentation is not None else None

    @staticmethod
    def is_compiled(layers: Sequence[type], rule: Rule) -> bool:
        """Whether the cache has the loop for members of as many layers, by far the longest to compile."""
        return any(len(member) == len(layers) for member, *_ in cached_signatures(kernels.train_windows))

    def compile(self) -> None:
        initialize_optimizer(self.optimizer)
        self.threads = ThreadPoolExecutor(min(self.ensemble.num_models, num_cores()))
        nothing = np.arange(0)
        self.train(nothing, self.sampler.size, members=range(1))  # compiles, or reads its cache

    def run(self, epoch: Epoch, start: int, stop: int) -> None:
        order, size, stride = epoch.order.numpy(), self.sampler.size, self.sampler.stride
        whole = min(stop, (len(order) - size) // stride + 1)
        members = range(self.ensemble.num_models)
        if whole > start:
            self.train(order[start * stride : (whole - 1) * stride + size], size, members)
        if stop > max(whole, start):  # a last, smaller batch
            rest = order[whole * stride :]
            self.train(rest, len(rest), members)
        self.steps_in_epoch += stop - start

    def train(self, indices: np.ndarray, window: int, members: range) -> None:
        """All windows of ``window`` samples in the sequence ``indices``, for every member."""
        samples = self.source.inputs.flatten(1).numpy()[indices]
        labels = self.source.labels.numpy()[indices]
        presentation, learning = self.presentation(window), self.learning()
        optimizers = kernel_optimizer.constants(self.optimizer, 0), kernel_optimizer.constants(self.optimizer, -1)
        lags, modulation = self.shared_by_members(samples, labels, window)

        def train_member(index: int) -> int:
            member = self.member(index)
            membranes = tuple(u[index].numpy() for u in self.state.layers) if self.is_dynamic else None
            work = kernels.workspace(member, window, membranes, compares=learning.rule in COMPARE)
            updates = kernels.train_windows(
                member,
                self.feedback_paths(index, member),
                work,
                samples,
                labels,
                lags,
                modulation,
                presentation,
                learning,
                optimizers,
                kernel_optimizer.count(self.optimizer),
                self.totals[index].numpy(),
            )
            if self.is_dynamic:
                for state, u in zip(self.state.layers, work.u, strict=True):
                    state[index].copy_(torch.from_numpy(u).T)
            return updates

        updates = list(self.threads.map(train_member, members))[-1]
        kernel_optimizer.set_count(self.optimizer, updates)

    def shared_by_members(self, samples: np.ndarray, labels: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Shared by members: kernel values of each sample with those before it, and per window the weights of xi or,
        for a form in ``LABEL_FORMS``, which samples have the newest's label.
        """
        source = self.rule if self.rule.sigmas else self.monitor
        lags, modulation = np.zeros((0, window), np.float32), np.zeros((1, window), np.float32)
        if source is not None:
            sigma_x, sigma_y, _ = source.sigmas
            lags = hsic_kernels.lagged_kernel_values(samples, window, sigma_x)
        if self.rule.modulator and self.rule.form in LABEL_FORMS:
            begins = np.arange(0, len(labels) - window + 1, self.sampler.stride)
            windows = labels[begins[:, None] + np.arange(window)]
            modulation = (windows == windows[:, -1:]).astype(np.float32)
        elif self.rule.modulator:
            exact = self.rule.form == "exact"
            modulation = hsic_kernels.scaled_modulation_weights(
                lags, labels, self.num_classes, window, self.sampler.stride, self.rule.gamma, sigma_y, exact
            )
        return lags, modulation

    @property
    def is_dynamic(self) -> bool:
        return isinstance(self.ensemble.network.layers[-1], LeakyIntegrator)

    @property
    def rate(self) -> float:
        """dt / tau; an MLP is the network whose time step is as long as its time constant."""
        return cast(LeakyIntegrator, self.ensemble.network.layers[-1]).rate if self.is_dynamic else 1.0

    def presentation(self, window: int) -> kernels.Presentation:
        return kernels.Presentation(window, self.sampler.stride, self.ensemble.network.num_timesteps, self.rate)

    def learning(self) -> kernels.Learning:
        source = self.rule if self.rule.sigmas else self.monitor or self.rule  # of one objective, where both are
        gamma, (_, sigma_y, sigma_z) = source.gamma or 0.0, source.sigmas or (1.0, 1.0, 1.0)
        log_hsic = self.monitor is not None
        kernel = own_kernel(self.rule)
        assert kernel in RULES  # or it would be ``unsupported``
        rate = float(getattr(self.rule, "learning_rate", 0))
        form = hsic_kernels.form_of(self.rule.form)
        objective = float(gamma), float(sigma_y), float(sigma_z)
        learning = kernels.Learning(RULES[kernel], form, rate, log_hsic, *objective)
        if kernel == "phsic":
            groups = Groups(self.rule.groups or 0, float(self.rule.power), float(self.rule.smoothing))
            return learning._replace(label_weight=float(self.rule.label_weight), groups=groups)
        return learning

    def feedback_paths(self, index: int, member: tuple[kernels.Layer, ...]) -> tuple[kernels.FeedbackPath, ...]:
        """What sends one model's errors to its hidden layers, as views; the readout's is not read."""
        state, last = self.state.rule, member[-1]
        weights = [layer.weight for layer in member[1:]]
        kernel = own_kernel(self.rule)
        if kernel == "local-classifier":
            arrays = [[part[index].numpy() for part in tree_leaves(classifier)] for classifier in state[:-1]]
            of_layers = [kernels.FeedbackPath(parts[2 if len(parts) > 2 else 0], *parts[:2]) for parts in arrays]
            return *of_layers, kernels.FeedbackPath(last.weight, last.weight, last.bias)
        if kernel == "feedback-alignment":
            weights = [matrices["affine.weight"][index].numpy() for matrices in state[1:]]
        elif kernel == "direct-feedback-alignment":
            weights = [matrix[index].numpy() for matrix in state[:-1]]
        return tuple(kernels.FeedbackPath(feedback, last.weight, last.bias) for feedback in (*weights, last.weight))

    def member(self, index: int) -> tuple[kernels.Layer, ...]:
        """One model's arrays, as views."""
        return tuple(
            kernels.Layer(
                *(
                    kernel_optimizer.moment(self.optimizer, layer[f"affine.{name}"], moment)[index].numpy()
                    for name in ("weight", "bias")
                    for moment in (None, "exp_avg", "exp_avg_sq")
                )
            )
            for layer in self.ensemble.parameters
        )


def is_covered(network: Network) -> bool:
    """Whether kernels have the forward pass of a network: dense layers in a chain, or leaky integrators all alike."""
    layers: list[Any] = [*network.layers]
    types = [type(layer) for layer in layers]
    if not is_plain(network):
        return False
    if {*types} == {LeakyIntegrator}:
        *hidden, readout = layers
        return are_alike(layers, "rate") and all(layer.hidden for layer in hidden) and not readout.hidden
    return types[-1] is Readout and not {*types[:-1]} - {DenseLayer}


def is_plain(network: Network) -> bool:
    """Whether a network, and what its layers are made of, does what the kernels take it to do: no subclass, no hook."""
    parts: list[Any] = [part for layer in network.layers for part in layer.children()]
    return (
        type(network) is Network
        and {type(part) for part in parts} <= {nn.Linear, nn.Conv2d}
        and all(part.bias is not None for part in parts)
        and not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    )


def are_alike(layers: Sequence[Any], *constants: str) -> bool:
    """Whether neurons have the same constants in all layers: kernels are told them once."""
    return len({tuple(getattr(layer, name) for name in constants) for layer in layers}) <= 1
