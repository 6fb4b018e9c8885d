"""What spiking layers do with samples: their spike trains, and how many spikes a sample costs."""

import torch
from torch import Tensor

from projectlib.ensemble import Ensemble, over_members
from projectlib.models import Network, SpikingLayer
from projectlib.models.network import Parameters

NUM_SAMPLES = 256  # that spikes are counted over


def has_spiking_layers(network: Network) -> bool:
    return any(isinstance(layer, SpikingLayer) for layer in network.layers)


def spike_trains(network: Network, parameters: Parameters, x: Tensor) -> list[Tensor]:
    """Spike trains of each spiking layer for x (N, ...) from rest: (time steps, N, neurons), 1 for a spike."""
    state, trains = network.initial_state(len(x)), []
    for _ in range(network.num_timesteps):
        _, state = network.run(parameters, state, x)
        trains.append(
            [u.spikes for u, layer in zip(state, network.layers, strict=True) if isinstance(layer, SpikingLayer)]
        )
    return [torch.stack(of_layer) for of_layer in zip(*trains, strict=True)]


def spikes_per_sample(ensemble: Ensemble, inputs: Tensor) -> Tensor:
    """(num_models,) spikes of all neurons while a sample is presented, the mean over the first 256 of inputs."""
    x = inputs[:NUM_SAMPLES]

    def of_member(parameters: Parameters) -> Tensor:
        trains = spike_trains(ensemble.network, parameters, x)
        return torch.stack([train.sum() / len(x) for train in trains]).sum()

    return over_members(of_member, ensemble.parameters).cpu()
