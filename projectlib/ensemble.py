"""Many models at once: stacked parameters, one seed per member."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from projectlib.models.network import Network, Parameters

HEAVY = 1 << 20  # elements of a tensor
STATE, NOISE, ACTIVATIONS, RESERVOIR = range(1, 5)  # what is drawn beside weights, each from a stream of its own


@dataclass
class Ensemble:
    """Models of one architecture as one set of tensors.

    network: the architecture; its own parameters are placeholders, of which only shape, type and device matter.
    parameters: one dictionary per layer, of tensors (num_models, ...).
    seeds: of the members, in their order.
    """

    network: Network
    parameters: Parameters
    seeds: Sequence[int]

    @property
    def num_models(self) -> int:
        return next(iter(self.parameters[-1].values())).shape[0]

    @property
    def num_layers(self) -> int:
        return len(self.parameters)

    def member(self, index: int) -> Parameters:
        """The parameters of one member, as views."""
        return [{name: p[index] for name, p in layer.items()} for layer in self.parameters]

    def draw_state(self, draw: Callable[[Network, torch.Generator], Any]) -> Any:
        """What ``draw(network, generator)`` returns for each member, a pytree of tensors, as (num_models, ...) each.

        The network has the member's parameters.  It draws on the CPU, from a stream of the member's seed, so that a
        seed names the same state on every device.
        """
        network, device = deepcopy(self.network).cpu(), next(iter(self.parameters[-1].values())).device
        states = []
        for index, seed in enumerate(self.seeds):
            for own, of_member in zip(network.split_parameters(), self.member(index), strict=True):
                for name, parameter in own.items():
                    parameter.copy_(of_member[name])
            states.append(draw(network, generator_of(seed, STATE)))
        return tree_map(lambda *members: torch.stack(members).to(device), *states)

    def predict(self, x: Tensor) -> Tensor:
        """Logits (num_models, N, num_classes) of x (N, ...), for every member."""
        with torch.no_grad():
            return over_members(lambda p: self.network.predict(p, x), self.parameters)


def generator_of(seed: int, purpose: int) -> torch.Generator:
    """The generator for one purpose of a seed, independent of the one that draws a member's weights.

    torch's generator on a CPU keeps 32 bits of a seed, so that ``seed + 2**32`` would be the same one again.
    """
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, purpose]).generate_state(1)[0]))


def build_ensemble(
    make: Callable[[torch.Generator], Network], seeds: Sequence[int], device: torch.device | str = "cpu"
) -> Ensemble:
    """An ensemble of ``make(generator)``, one member for each seed.

    Weights are drawn on the CPU, so a seed names the same model on every device.
    """
    networks = [make(torch.Generator().manual_seed(seed)) for seed in seeds]
    layers = zip(*(network.split_parameters() for network in networks), strict=True)
    parameters = [
        {name: torch.stack([layer[name] for layer in members]).to(device) for name in members[0]} for members in layers
    ]
    return Ensemble(networks[0].to(device), parameters, seeds)


def is_heavy(stacked: Tensor) -> bool:
    """Whether one member of a stacked tensor keeps a CPU busy: the weight of a convolution, or a large one."""
    return stacked.ndim >= 5 or stacked[0].numel() >= HEAVY


def over_members(function: Callable, *stacked):
    """``function`` of one member's tensors, mapped over the first dimension of all tensors in ``stacked``.

    In one batch through ``torch.vmap``, or one member after the other where batching gains nothing: for a single
    member, and on a CPU for convolutions (members would become groups) and weights that fill a cache.
    """
    leaves = tree_leaves(stacked)
    num_models = leaves[0].shape[0]
    if num_models > 1 and (leaves[0].is_cuda or not any(is_heavy(p) for p in leaves)):
        return torch.vmap(function)(*stacked)
    results = [function(*tree_map(lambda p, i=i: p[i], stacked)) for i in range(num_models)]
    if num_models == 1:
        return tree_map(lambda p: p[None], results[0])
    return tree_map(lambda *members: torch.stack(members), *results)
