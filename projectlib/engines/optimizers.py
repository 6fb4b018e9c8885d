"""What engines need of torch's optimizers: their state, there before the first step."""

import torch
from torch.optim import Optimizer


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
