"""What engines need of torch's optimizers: their state, there before the first step, and back from a checkpoint."""

import torch
from torch.optim import Optimizer

OF_THE_DEVICE = ("capturable", "foreach", "fused")
"""Options that say how a step is computed, and not what it computes."""


def load_optimizer(optimizer: Optimizer, saved: dict) -> None:
    """``optimizer.load_state_dict`` of a state that may have been saved on another kind of device."""
    groups = []
    for saved_group, group in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        options = {name: group[name] for name in OF_THE_DEVICE if name in group}
        rate = float(saved_group["lr"])  # a tensor where a CUDA graph reads it
        options["lr"] = torch.full_like(group["lr"], rate) if torch.is_tensor(group["lr"]) else rate
        groups.append({**saved_group, **options})
    optimizer.load_state_dict({**saved, "param_groups": groups})


def initialize_optimizer(optimizer: Optimizer) -> None:
    """Create the state that torch's optimizers otherwise create at their first step: moments and counts of zero.

    Leaves parameters and an existing state as they are.
    """
    optimizer.step()  # without gradients: changes nothing, and tells a schedule that training has begun
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if optimizer.state.get(parameter):
                continue
            trial = torch.zeros_like(parameter)
            trial.grad = torch.zeros_like(parameter)
            options = {key: value for key, value in group.items() if key != "params"}
            example = type(optimizer)([{**options, "params": [trial]}])
            example.step()
            for name, value in example.state[trial].items():
                optimizer.state[parameter][name] = torch.zeros_like(value) if torch.is_tensor(value) else value
