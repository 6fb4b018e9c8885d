"""The CPU engine for streams: samples that are run once each, and a memory beside every hidden layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from projectlib.data import Sampler
from projectlib.engines.cpu import optimizer as kernel_optimizer
from projectlib.engines.cpu.kernels import cells as cell_kernels
from projectlib.engines.cpu.kernels import hsic as hsic_kernels
from projectlib.engines.cpu.kernels import stream as kernels
from projectlib.engines.cpu.kernels.compiler import cached_signatures
from projectlib.engines.cpu.memories import MEMORIES
from projectlib.engines.cpu.mlp import CpuEngine, are_alike, is_covered, is_plain
from projectlib.ensemble import Ensemble
from projectlib.models import LeakyIntegrator, Network, SpikingLayer
from projectlib.models.spiking import SpikingState
from projectlib.modulators.remembered import Remembered
from projectlib.rules import Rule
from projectlib.rules.rule import own_kernel


class StreamEngine(CpuEngine):
    """Eager's steps of BioHSIC with a memory as compiled loops, each member through a range of samples by itself.

    What layers remember is changed in the state's own tensors; what the readout replays, which is small, is copied.
    """

    @staticmethod
    def supports(network: Network, rule: Rule) -> bool:
        in_order = rule.window == 1 or network.num_timesteps == 1  # else a block is shown again, and not its samples
        of_layers = len(network.layers) > 1 and (is_spiking(network) or is_covered(network))
        return rule.streams and in_order and of_layers

    @staticmethod
    def unsupported(ensemble: Ensemble, rule: Rule, optimizer: Optimizer, sampler: Sampler) -> str | None:
        if own_kernel(rule) != "biohsic":
            return f"the rule {type(rule).__name__}"
        if own_kernel(rule.modulator) not in MEMORIES:
            return f"the modulator {type(rule.modulator).__name__}"
        if reason := kernel_optimizer.unsupported(optimizer, ensemble.parameters):
            return reason
        return "augmented data" if sampler.augmentation is not None else None

    @staticmethod
    def is_compiled(layers: Sequence[type], rule: Rule) -> bool:
        """Whether the cache has the loop for as many layers of such neurons with such a memory."""
        cell = cell_kernels.SpikingCells if layers[0] is SpikingLayer else None
        wanted = len(layers), MEMORIES[rule.modulator.kernel].remembered, cell
        return any(
            (len(member), memories[0].instance_class, getattr(hidden[0], "instance_class", None)) == wanted
            for member, memories, _, _, hidden, *_ in cached_signatures(kernels.train_stream)
        )

    def train(self, indices: np.ndarray, window: int, members: range) -> None:
        """All samples of the sequence ``indices``, in blocks of ``window``, for every member."""
        samples = self.source.inputs.flatten(1).numpy()[indices]
        labels = self.source.labels.numpy()[indices]
        stream, neuron = kernels.Stream(self.ensemble.network.num_timesteps, window), self.neuron()
        memory = MEMORIES[self.rule.modulator.kernel]
        settings, weights = memory.settings(self.rule.modulator), self.signal_weights(samples, labels)
        optimizers = kernel_optimizer.constants(self.optimizer, 0), kernel_optimizer.constants(self.optimizer, -1)
        num_remembered, num_replayed = self.rule.modulator.num_samples, self.rule.num_replayed
        count, updates = self.count(), kernel_optimizer.count(self.optimizer)
        *remembered, _ = self.state.rule

        def train_member(index: int) -> tuple[int, int]:
            member, replay, (*hidden, readout) = self.member(index), self.replay(index), self.cells(index)
            counts = kernels.train_stream(
                member,
                tuple(memory.view(state, index) for state in remembered),
                settings,
                replay,
                tuple(hidden),
                readout,
                neuron,
                kernels.workspace(member, num_remembered, num_replayed, window),
                samples,
                labels,
                weights,
                stream,
                optimizers,
                count,
                updates,
                self.totals[index].numpy(),
            )
            self.keep_replay(replay, index, counts[0])
            return counts

        new_count, updates = list(self.threads.map(train_member, members))[-1]
        kernel_optimizer.set_count(self.optimizer, updates)
        self.keep_inputs(samples, count)
        for counter in self.counters():
            counter.fill_(new_count)

    # What the state has and kernels are told, or the reverse

    def counters(self) -> list[Tensor]:
        """What counts samples (time steps) in the state of a memory; it is the same for all."""
        return [leaf for leaf in tree_leaves(self.state.rule[:-1]) if leaf.dtype == torch.int64]

    def count(self) -> int:
        """Samples so far; of a memory that does not count them, those that the readout would replay."""
        counters, replay = self.counters(), self.state.rule[-1]
        if counters:
            return int(counters[0][0])
        return int(replay.y[0].sum()) if replay else 0

    def neuron(self) -> cell_kernels.Neuron:
        """What all hidden neurons have in common, and the readout's in their rate."""
        first = self.ensemble.network.layers[0]
        if not isinstance(first, SpikingLayer):
            return cell_kernels.Neuron(self.rate)
        constants = first.rate, first.trace_rate, float(first.threshold)  # 1 and 1.0 are compiled once
        return cell_kernels.Neuron(*constants, first.refractory, float(first.slope))

    def cells(self, index: int) -> tuple[np.ndarray | cell_kernels.SpikingCells, ...]:
        """Membranes (out,) or spiking neurons of every layer; zeros, which are not read, for an MLP."""
        if not self.is_dynamic:
            return tuple(np.zeros(layer["affine.bias"].shape[1], np.float32) for layer in self.ensemble.parameters)
        return tuple(cells_of(tree_map(lambda places: places[index, 0].numpy(), u)) for u in self.state.layers)

    def replay(self, index: int) -> kernels.Replay:
        """A copy of one member's replay."""
        num, replay = self.rule.num_replayed, self.state.rule[-1]
        width = self.ensemble.parameters[-1]["affine.weight"].shape[2]
        h, u = np.zeros((num, width), np.float32), np.zeros((num, self.num_classes), np.float32)
        if not replay:
            return kernels.Replay(h, u, np.zeros(num, np.int64))
        if self.is_dynamic:
            u[:] = replay.u[index].numpy()
        h[:] = replay.h[index].numpy()
        return kernels.Replay(h, u, replay.y[index].argmax(1).numpy())

    def keep_replay(self, after: kernels.Replay, index: int, count: int) -> None:
        """Copy a member's replay back into the state.  count: samples so far; rows not filled yet have no label."""
        replay = self.state.rule[-1]
        if not replay:
            return
        replay.h[index] = torch.from_numpy(after.h)
        if self.is_dynamic:
            replay.u[index] = torch.from_numpy(after.u)
        filled = torch.arange(len(after.labels)) >= len(after.labels) - count
        replay.y[index] = one_hot(torch.from_numpy(after.labels), self.num_classes) * filled[:, None]

    def signal_weights(self, samples: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(time steps, M) weights of what is remembered in the paper's signal, which inputs and labels determine."""
        modulator = self.rule.modulator
        if not modulator.compares_inputs:
            return np.zeros((1, 1), np.float32)
        ring: Remembered = self.state.rule[0]
        size, time_steps = modulator.num_samples, self.ensemble.network.num_timesteps
        oldest_first = (int(ring.count[0]) + np.arange(1, size)) % size
        before, labels_before = ring.x[0].numpy()[oldest_first], ring.y[0].argmax(1).numpy()[oldest_first]
        samples = np.concatenate([before, samples.repeat(time_steps, 0)])
        labels = np.concatenate([labels_before, labels.repeat(time_steps)])
        lags = hsic_kernels.lagged_kernel_values(samples, size, modulator.sigmas[0])
        options = size, 1, modulator.gamma, modulator.sigmas[1], modulator.signal == "exact"
        return hsic_kernels.scaled_modulation_weights(lags, labels, self.num_classes, *options)

    def keep_inputs(self, samples: np.ndarray, count: int) -> None:
        """Put the newest inputs into the rings of a memory that has them; kernels, which need none, leave them alone.

        count: time steps before these samples.
        """
        for ring in self.state.rule[:-1]:
            if isinstance(ring, Remembered) and ring.x.shape[-1]:
                time_steps, size = self.ensemble.network.num_timesteps, ring.x.shape[1]
                steps = np.arange(len(samples) * time_steps)[-size:]
                ring.x[:, (count + steps) % size] = torch.from_numpy(samples[steps // time_steps])


def is_spiking(network: Network) -> bool:
    """Whether a network is a chain of layers that fire, all alike, and a readout that does not."""
    *hidden, readout = network.layers
    if not is_plain(network) or {type(layer) for layer in hidden} != {SpikingLayer}:
        return False
    is_leaky = type(readout) is LeakyIntegrator and not readout.hidden
    constants = "rate", "trace_rate", "threshold", "refractory", "slope"
    return is_leaky and are_alike(hidden, *constants) and are_alike([*hidden, readout], "rate")


def cells_of(u: Any) -> Any:
    """A layer's state, of arrays, as kernels have it."""
    if not isinstance(u, SpikingState):
        return u
    arrays: Any = u
    return cell_kernels.SpikingCells(*arrays, derivative=np.zeros_like(arrays.v))
