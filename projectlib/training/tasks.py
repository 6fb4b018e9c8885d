"""From a config to what ``fit`` runs: the data, the models, the rule, the optimizer and the engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from projectlib.config.plugins import build
from projectlib.config.settings import refuse_resolvers
from projectlib.data import Dataset, Sampler, Split, downloads, prepare
from projectlib.engines import choose_engine, choose_reservoir_engine
from projectlib.engines.eager_reservoir import ReservoirEngine, ReservoirSamples
from projectlib.ensemble import ACTIVATIONS, Ensemble, build_ensemble, generator_of, is_heavy
from projectlib.errors import UserError
from projectlib.models import DynamicLayer
from projectlib.models.make import make_model
from projectlib.rules import Rule, TrainingState
from projectlib.runs.history import TRAIN_SET, row_split
from projectlib.training.allocation import COPIES_IN_TRAINING, MakeModel, within_memory
from projectlib.training.loop import Task, evaluate
from projectlib.training.memory_monitor import MemoryMonitor
from projectlib.training.metrics import HSICMonitor
from projectlib.training.probes import Probe
from projectlib.training.spikes import has_spiking_layers, spikes_per_sample

ALL_THREADS = torch.get_num_threads()  # before a job of a sweep changes it for the next


def build_task(config: DictConfig, device: torch.device, engine: str) -> Task:
    """The task of a composed config.  engine: "auto", "eager" or "compiled"."""
    return TASKS[config.task](config, device, engine)


def load_data_of_run(config: DictConfig, folder: Path) -> Dataset:
    """The data that a run folder's config names: neither this machine's environment is read for it, nor downloads made.

    Raises UserError where it asks for a resolver, or the data is not there.
    """
    refuse_resolvers(config, f"{folder}/.hydra/config.yaml")
    with downloads(allowed=False):
        return load_dataset(config)


def load_dataset(config: DictConfig) -> Dataset:
    """The data set of a config, on the CPU."""
    return prepare(build(config.data.source), config.data.limit, config.data.validation)


def model_maker(
    config: DictConfig, sizes: dict[str, Any], device: torch.device, copies: int = COPIES_IN_TRAINING
) -> MakeModel:
    """``make_model`` of a generator.  Raises UserError, before it takes much memory, where the ensemble cannot fit."""
    return within_memory(lambda generator: make_model(config, sizes, generator), config.nmodels, device, copies)


def make_rule(config: DictConfig) -> Any:
    """The rule of a config.  Raises UserError for one of another script, or for windows that are too small for it."""
    rule, name = build(config.rule), config.rule._target_
    if getattr(rule, "task", None) != config.task:
        raise UserError(f"rule is {name}; expected a rule for this script, e.g. rule={RULES[config.task]}")
    if (getattr(rule, "window", None) or config.data.batchsize) < rule.smallest_window:
        raise UserError(
            f"data.batchsize is {config.data.batchsize}; expected at least {rule.smallest_window}: "
            "a rule that compares samples needs a window of two"
        )
    return rule


def seeds(config: DictConfig) -> range:
    """One seed per member: seed, seed + 1, ..."""
    return range(config.seed, config.seed + config.nmodels)


def network_task(config: DictConfig, device: torch.device, engine: str) -> Task:
    """Layered networks under any rule."""
    rule = make_rule(config)
    if rule.modulator is None and not build(config.modulator).applies_window_signal:
        raise UserError(
            f"modulator is {config.modulator._target_}, which has no effect on the rule {type(rule).__name__}; "
            "expected rule=biohsic, or modulator=window"
        )
    check_stream(config, rule)
    dataset = load_dataset(config).to(device)
    sizes = {"input_shape": list(dataset.input_shape), "num_classes": dataset.num_classes}
    ensemble = build_ensemble(model_maker(config, sizes, device), seeds(config), device)
    use_threads(ensemble)
    if (rule.window or 1) > len(dataset.train.labels):
        raise UserError(
            f"optimizer.accumulate is {rule.window}; expected at most the {len(dataset.train.labels)} training samples"
        )
    has_state = any(isinstance(layer, DynamicLayer) for layer in ensemble.network.layers)
    if rule.streams and rule.window > 1 and has_state:
        raise UserError(
            f"optimizer.accumulate is {rule.window}; expected 1 with layers that have a state, which passes from time "
            "step to time step"
        )
    sampler = Sampler(
        n=len(dataset.train.labels),
        size=rule.window or config.data.batchsize,
        sliding=rule.sliding,
        drop_last=has_state,  # a state belongs to a place: all windows have all places
        augmentation=dataset.augmentation,
    )
    *hidden, readout = ensemble.parameters
    learning = [p for layer in hidden for p in layer.values()] if rule.trains_hidden else []
    optimizer = build_optimizer(config, learning, [*readout.values()])
    schedule = build(config.lr_schedule, optimizer=optimizer)
    objective = rule if rule.sigmas else config.hsic  # of the rule's HSIC, which is what the paper's forms descend
    compares = not rule.streams and sampler.size > 1  # single samples have no windows to measure it in
    logs_hsic = config.training.log_hsic and compares
    monitor = HSICMonitor(objective.gamma, objective.sigmas) if logs_hsic else None
    required = config.engine == "compiled"  # not where a checkpoint named the engine: ``auto`` may have chosen it
    engine_class = choose_engine(engine, ensemble, rule, optimizer, sampler, config.training.nepochs, required)

    def score(before_training: bool) -> dict[str, dict[str, Tensor]]:
        scores = {
            row_split(name): evaluate(ensemble, split, config.data.test_batchsize)
            for name, split in dataset.splits.items()
            if name != "train" or before_training
        }
        if has_spiking_layers(ensemble.network):
            scores["test"]["spikes"] = spikes_per_sample(ensemble, dataset.test.inputs)
        if memory_monitor and not before_training:
            scores["memory"] = memory_monitor(trainer.state.rule[:-1])
        return scores

    trainer = engine_class(ensemble, rule, optimizer, dataset, sampler, monitor)
    memory_monitor = build_memory_monitor(config, rule, ensemble, dataset)
    probe = Probe(
        config.training.log_arrays,
        ensemble,
        rule,
        dataset.train,
        dataset.num_classes,
        config.hsic.gamma,
        config.hsic.sigmas,
        config.data.batchsize,
        state=lambda: trainer.state,
    )
    return Task(
        trainer,
        score,
        schedule,
        sizes,
        probe,
        numbers_kept(rule, trainer.state, ensemble, dataset.train.inputs[:1], sampler.size),
    )


def reservoir_task(config: DictConfig, device: torch.device, engine: str) -> Task:
    """Reservoirs whose readout learns the modulatory signal of random activations."""
    rule = make_rule(config)
    if config.data.limit is not None or config.data.validation:
        raise UserError(
            f"data.limit is {config.data.limit} and data.validation {config.data.validation}, without effect on a "
            "reservoir, which learns from test samples; expected data.nsamples to say how many"
        )
    dataset, num_samples, zdim = load_dataset(config), config.data.nsamples, config.data.zdim
    if num_samples > len(dataset.test.labels):
        raise UserError(f"data.nsamples is {num_samples}; expected at most the {len(dataset.test.labels)} test samples")
    if num_samples < config.data.batchsize:
        raise UserError(
            f"data.nsamples is {num_samples}; expected at least data.batchsize, {config.data.batchsize} of one window"
        )
    if zdim == 1 and num_samples == config.data.batchsize:
        raise UserError(
            f"data.nsamples is {num_samples} with data.zdim=1; expected more than data.batchsize: errors are relative "
            "to the variance of the targets, and a single number has none"
        )
    generator = generator_of(config.data.seed, ACTIVATIONS)
    learnt, held_out = (
        present_samples(Split(*(tensor[part] for tensor in dataset.test)), dataset.num_classes, zdim, generator, device)
        for part in (slice(num_samples), slice(num_samples, 2 * num_samples))
    )
    sizes = {"num_inputs": learnt.x.shape[1] + dataset.num_classes + zdim, "num_outputs": zdim}
    ensemble = build_ensemble(model_maker(config, sizes, device, copies=1), seeds(config), device)
    use_threads(ensemble)
    if config.optimizer.accumulate > 1:
        raise UserError(f"optimizer.accumulate is {config.optimizer.accumulate}; expected 1 with a reservoir")
    optimizer = build_optimizer(config, [], [ensemble.parameters[0]["readout"]])
    schedule = build(config.lr_schedule, optimizer=optimizer)
    window, num_timesteps = config.data.batchsize, config.data.ntimesteps
    num_updates = config.training.nepochs * (num_samples - window + 1) * num_timesteps
    required = config.engine == "compiled"
    engine_class = choose_reservoir_engine(engine, ensemble, rule, optimizer, num_updates, required)
    if engine_class is not ReservoirEngine:
        torch.set_num_threads(1)  # the engine has threads of its own
    reservoirs = engine_class(ensemble, rule, optimizer, learnt, window, num_timesteps, seeds(config))

    def score(before_training: bool) -> dict[str, dict[str, Tensor]]:
        scores = {TRAIN_SET: reservoirs.measure()} if before_training else {}
        if len(held_out.x) >= config.data.batchsize:
            scores["test"] = reservoirs.score(held_out)
        return scores

    kept = (config.data.batchsize - 1) * sum(part[0].numel() for part in (learnt.x, learnt.y, learnt.z))
    return Task(reservoirs, score, schedule, sizes, probe=lambda epoch: {}, numbers_kept=kept)


def present_samples(
    split: Split, num_classes: int, zdim: int, generator: torch.Generator, device: torch.device
) -> ReservoirSamples:
    """Samples with random activations z, uniform in [0, 1), drawn once for each."""
    z = torch.rand(len(split.labels), zdim, generator=generator)
    y = nn.functional.one_hot(split.labels, num_classes).to(split.inputs.dtype)
    return ReservoirSamples(split.inputs.flatten(1).to(device), y.to(device), z.to(device))


def use_threads(ensemble: Ensemble) -> None:
    """All cores for convolutions and large weights; one thread otherwise, where waiting costs more than it saves."""
    heavy = any(is_heavy(p) for layer in ensemble.parameters for p in layer.values())
    torch.set_num_threads(ALL_THREADS if heavy else 1)


def check_stream(config: DictConfig, rule: Rule) -> None:
    """Raises UserError for optimizer.accumulate or readout.window above 1 with a rule that ignores it."""
    asked = {
        "optimizer.accumulate": (config.optimizer.accumulate, rule.window or 1),
        "readout.window": (config.readout.window, rule.num_replayed + 1),
    }
    for key, (value, has) in asked.items():
        if value > 1 and value != has:
            raise UserError(
                f"{key} is {value}, which is for a stream of samples; expected 1 with {type(rule).__name__} on windows "
                "or batches, or a memory: modulator=delta"
            )


def numbers_kept(rule: Rule, state: TrainingState, ensemble: Ensemble, example: Tensor, window: int) -> int:
    """How many numbers a model keeps between samples: its rule's state, and what it compares the newest sample with.

    Of a sliding window, whose activations are computed anew, that is the inputs and labels before the newest; of a
    plain batch inputs, labels and all activations.
    """
    remembered = sum(leaf[0].numel() for leaf in tree_leaves(state.rule) if leaf.is_floating_point())
    if rule.smallest_window == 1 and not rule.sliding:
        return remembered
    with torch.no_grad():
        outputs, _ = ensemble.network.run(ensemble.member(0), ensemble.network.initial_state(1), example)
    *hidden, labels = (output.numel() for output in outputs)  # as many labels as logits
    if rule.sliding:
        return remembered + (window - 1) * (example.numel() + labels)
    return remembered + window * (example.numel() + sum(hidden) + labels)


def build_memory_monitor(config: DictConfig, rule: Rule, ensemble: Ensemble, dataset: Dataset) -> MemoryMonitor | None:
    """What ``training.log_memory`` asks for.  Raises UserError where hidden layers have no memory."""
    if not config.training.log_memory:
        return None
    if rule.own_memory is None or ensemble.num_layers == 1:
        raise UserError(
            "training.log_memory is true, but no hidden layer has a memory; expected modulator=delta or another memory "
            "and a model with hidden layers"
        )
    return MemoryMonitor(ensemble, rule.own_memory, dataset.train, dataset.num_classes)


def build_optimizer(config: DictConfig, hidden: list[Tensor], readout: list[Tensor]) -> torch.optim.Optimizer:
    """The optimizer of a config over stacked parameters, as one fused kernel where the device has it.

    Two groups where the readout has a learning rate of its own.
    """
    settings = config.optimizer
    own = {"accumulate", "readout_lr"}  # ours, not torch's
    torch_settings = OmegaConf.masked_copy(settings, [key for key in settings if key not in own])
    if "betas" in torch_settings:  # of which torch refuses a whole number beside a fraction
        torch_settings.betas = [*map(float, torch_settings.betas)]
    device = readout[0].device
    options: dict[str, Any] = {"fused": device.type in ("cpu", "cuda")}
    rates = settings.lr, settings.lr if settings.readout_lr is None else settings.readout_lr
    if device.type == "cuda":  # rate and step count on the device, where a CUDA graph reads and advances them
        rates = tuple(torch.tensor(rate, device=device) for rate in rates)
        if "SGD" not in settings._target_:
            options["capturable"] = True
    groups = [{"params": part, "lr": rate} for part, rate in zip((hidden, readout), rates, strict=True) if part]
    if settings.readout_lr is None:
        groups = [{"params": [*hidden, *readout], "lr": rates[0]}]
    return build(torch_settings, params=groups, **options)


TASKS: dict[str, Callable[[DictConfig, torch.device, str], Task]] = {
    "network": network_task,
    "reservoir": reservoir_task,
}

RULES = {"network": "biohsic", "reservoir": "delta"}
"""A rule that suits a task."""
