"""What engines need of torch's optimizers: their state, there before the first step, and back from a checkpoint."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.optim import Optimizer


def load_optimizer(optimizer: Optimizer, saved: dict) -> None:
    """``optimizer.load_state_dict`` of a state that may have been saved on another kind of device.

    Only the learning rates are taken from the saved options, as a schedule changes them; the others are settings of the
    run.  Raises ValueError for another optimizer's state, as kernels check neither shapes nor types.
    """
    if problem := state_problem(optimizer, saved):
        raise ValueError(f"its optimizer {problem}")
    groups = []
    for saved_group, group in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        rate = float(saved_group["lr"])  # a tensor where a CUDA graph reads it
        options = {**group, "lr": torch.full_like(group["lr"], rate) if torch.is_tensor(group["lr"]) else rate}
        groups.append({**options, "params": saved_group["params"]})
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def state_problem(optimizer: Optimizer, saved: dict) -> str | None:
    """Why a saved state cannot be this optimizer's, in words; None if it can.

    A parameter has no state yet, or all of it: moments of its own shape and type, and counts of steps.  Of optimizers
    that count, some may have none, whose layer a rule leaves alone; of others none or all of them have one.
    """
    groups, state = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(state, dict) or len(groups) != len(optimizer.param_groups):
        return f"has no state of {len(optimizer.param_groups)} groups"
    first = 0
    for saved_group, group in zip(groups, optimizer.param_groups, strict=True):
        numbers = [*range(first, first + len(group["params"]))]
        first += len(numbers)
        if not isinstance(saved_group, dict) or saved_group.get("params") != numbers:
            return f"has other parameters than the {len(numbers)} expected"
        if not 0 <= float(saved_group["lr"]) < math.inf:
            return f"has lr {saved_group['lr']!r:.50}, expected a finite number of at least 0"
        for number, parameter in zip(numbers, group["params"], strict=True):
            if number in state and (
                problem := state_difference(state[number], fresh_state(optimizer, group, parameter))
            ):
                return f"has for parameter {number} {problem}"
    lacking = len({*range(first)} - state.keys())
    if len(state) + lacking != first or (state and lacking and any("step" not in one for one in state.values())):
        return f"has the state of {len(state)} parameters, expected none or those of all {first}"
    return None


def state_difference(saved: dict, fresh: dict) -> str | None:
    """How a parameter's saved state differs in layout from a fresh one, in words; None if it does not."""
    if not isinstance(saved, dict) or saved.keys() != fresh.keys():
        return f"{[*saved] if isinstance(saved, dict) else type(saved).__name__}, expected {[*fresh]}"
    for name, expected in fresh.items():
        value = saved[name]
        if type(value) is not type(expected):
            return f"{name} of type {type(value).__name__}, expected {type(expected).__name__}"
        if not torch.is_tensor(expected):
            continue
        if (value.shape, value.dtype) != (expected.shape, expected.dtype) or not value.is_contiguous():
            found, wanted = ((tuple(tensor.shape), tensor.dtype) for tensor in (value, expected))
            return f"{name} {found}, expected contiguous {wanted}"
        if name == "step" and not 0 <= value.item() < 2**53:
            return f"step {value.item()}, expected a count"
    return None


def initialize_optimizer(optimizer: Optimizer) -> None:
    """Create the state that torch's optimizers otherwise create at their first step: moments and counts of zero.

    Leaves parameters and an existing state as they are.
    """
    optimizer.step()  # without gradients: changes nothing, and tells a schedule that training has begun
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state.get(parameter) and (fresh := fresh_state(optimizer, group, parameter)):
                optimizer.state[parameter].update(fresh)


def fresh_state(optimizer: Optimizer, group: dict, parameter: Tensor) -> dict:
    """A parameter's state before its first step."""
    trial = torch.zeros_like(parameter)
    trial.grad = torch.zeros_like(parameter)
    options = {key: value for key, value in group.items() if key != "params"}
    example = cast(Callable[..., Optimizer], type(optimizer))([{**options, "params": [trial]}])
    example.step()
    state = example.state[trial]
    return {name: torch.zeros_like(value) if torch.is_tensor(value) else value for name, value in state.items()}
