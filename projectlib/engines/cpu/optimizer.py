"""A torch optimizer as the kernels read it: its constants, its moments and its count of updates, all still its own."""

from collections.abc import Sequence
from itertools import chain

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from projectlib.engines.cpu.kernels import mlp as kernels

KINDS = {SGD: kernels.SGD, Adam: kernels.ADAM, AdamW: kernels.ADAMW}
SMALLEST_EPS = 1e-12  # of Adam; below it, what keeps the kernels' moments normal numbers would be felt
PLAIN = {"momentum": 0, "dampening": 0, "nesterov": False, "amsgrad": False, "maximize": False}


def unsupported(optimizer: Optimizer, layers: Sequence[dict[str, Tensor]], trains_hidden: bool = True) -> str | None:
    """What of an optimizer of these layers the kernels do not support, in words; None if they support it."""
    groups = optimizer.param_groups
    group = groups[0]
    if type(optimizer) is Adam and group.get("decoupled_weight_decay"):
        return "Adam with decoupled weight decay (optimizer=adamw)"
    if type(optimizer) not in KINDS:
        return f"the optimizer {type(optimizer).__name__}"
    if options := [f"{key}={group[key]}" for key, value in PLAIN.items() if group.get(key, value) != value]:
        return f"the optimizer {type(optimizer).__name__} with {', '.join(options)}"
    if group.get("eps", 1) < SMALLEST_EPS:
        return f"the optimizer {type(optimizer).__name__} with eps={group['eps']}"
    if not are_hidden_and_readout(groups, layers, trains_hidden):
        return "an optimizer with groups of its own"
    has_hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return "an optimizer with hooks" if has_hooks else None


def are_hidden_and_readout(groups: list[dict], layers: Sequence[dict[str, Tensor]], trains_hidden: bool) -> bool:
    """Whether groups are all layers, or hidden layers and readout that differ in their rate only; or the readout alone,
    where hidden layers do not learn.
    """
    *hidden, readout = [[id(parameter) for parameter in layer.values()] for layer in layers]
    expected = [[[*chain(*hidden), *readout]], [[*chain(*hidden)], readout]]
    expected += [] if trains_hidden else [[readout]]
    own = {"params", "lr", "initial_lr"}
    first, *others = [{key: value for key, value in group.items() if key not in own} for group in groups]
    return [[*map(id, group["params"])] for group in groups] in expected and all(other == first for other in others)


def constants(optimizer: Optimizer, index: int = 0) -> kernels.Optimizer:
    """A parameter group's settings.  index: 0 for the hidden layers (or the only group), -1 for the readout."""
    group = optimizer.param_groups[index]
    beta1, beta2 = group.get("betas", (0.0, 0.0))
    values = (group["lr"], beta1, beta2, group.get("eps", 0.0), group["weight_decay"])
    return kernels.Optimizer(KINDS[type(optimizer)], *map(float, values))


def moment(optimizer: Optimizer, parameter: Tensor, name: str | None) -> Tensor:
    """A moment of a parameter, or the parameter itself where there is none to be read."""
    return optimizer.state.get(parameter, {}).get(name, parameter)


def count(optimizer: Optimizer) -> int:
    """Updates so far, which Adam corrects its moments by."""
    for state in optimizer.state.values():
        if "step" in state:
            return int(state["step"])
    return 0


def set_count(optimizer: Optimizer, updates: int) -> None:
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].fill_(updates)
