"""What the memories beside hidden layers are worth while a network learns."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils._pytree import tree_leaves, tree_map

from projectlib.data import Split
from projectlib.ensemble import Ensemble
from projectlib.models.network import Parameters
from projectlib.modulators import Memory, Sample
from projectlib.training.probes import SEED, cosine, settle

NUM_SAMPLES = 1000  # of the exact gradient
AT_ONCE = 100  # samples whose signals are computed together


class MemoryMonitor:
    """Measures every layer's memory on a fixed choice of training samples, and changes nothing.

    Of each layer::

        norm_layer0     root of the sum of squares of all that it remembers
        cosine_layer0   of the angle between the signal that it would supply and the gradient of its objective over
                        1,000 samples that are all at hand (Memory.objective): the mean over samples, a sample
                        without a signal counting as 0
    """

    def __init__(self, ensemble: Ensemble, memory: Memory, train: Split, num_classes: int):
        self.ensemble, self.memory = ensemble, memory
        order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(SEED))[:NUM_SAMPLES]
        order = order.to(train.labels.device)
        self.x = train.inputs[order]
        self.y = one_hot(train.labels[order], num_classes).to(self.x.dtype)

    @torch.no_grad()
    def __call__(self, states: list[Any]) -> dict[str, Tensor]:
        """The metrics by name, (num_models,) each.  states: of every hidden layer's memory, stacked over models."""
        of_models = []
        for index in range(self.ensemble.num_models):
            own = tree_map(lambda stacked, index=index: stacked[index], states)
            of_models.append(self.measure(self.ensemble.member(index), own))
        return {name: torch.stack([metrics[name] for metrics in of_models]).cpu() for name in of_models[0]}

    def measure(self, parameters: Parameters, states: list[Any]) -> dict[str, Tensor]:
        """The metrics of one model, () each."""
        outputs, _ = settle(self.ensemble.network, parameters, self.x)
        metrics = {}
        for index, (z, state) in enumerate(zip(outputs, states, strict=False)):
            numbers = [leaf for leaf in tree_leaves(state) if leaf.is_floating_point()]
            metrics[f"norm_layer{index}"] = torch.stack([leaf.square().sum() for leaf in numbers]).sum().sqrt()
            metrics[f"cosine_layer{index}"] = self.cosine(z, state)
        return metrics

    def cosine(self, z: Tensor, state: Any) -> Tensor:
        """The mean over samples of the cosine between supplied and exact signal, ().  z: (n, ...) of a layer."""
        of_sample = torch.vmap(lambda x, y, z: self.memory.recall(Sample(x, y, z), state), chunk_size=AT_ONCE)
        seen, supplied = of_sample(self.x, self.y, z)
        exact = torch.func.grad(lambda z: self.memory.objective(Sample(self.x, self.y, z)))(seen)
        return torch.vmap(cosine)(supplied, exact).nan_to_num(0).mean()
