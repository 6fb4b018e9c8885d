"""fit and evaluate: the one loop that every script shares."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LRScheduler

from projectlib.data import Epoch, Sampler, Split
from projectlib.ensemble import Ensemble
from projectlib.errors import Diverged, UserError
from projectlib.garbage import paused_collector
from projectlib.runs.checkpoint import layout_difference
from projectlib.runs.recorder import Recorder

CHUNK_SECONDS = 0.3
"""How long an engine runs before the loop looks at signals; in eager on a GPU, which runs ahead of the host, up to
``log_interval`` steps."""


class Engine(Protocol):
    """What ``fit`` asks of an engine.

    name: for the summary.  sampler: how an epoch is cut into steps.  steps_in_epoch: done of this epoch so far.
    """

    name: str
    sampler: Sampler
    steps_in_epoch: int

    def compile(self) -> None:
        """What has to be done once before the first step."""
        ...

    def draw_epoch(self, generator: torch.Generator) -> Epoch:
        """Everything random about the next epoch."""
        ...

    def begin_epoch(self) -> None:
        """Forget the metrics of the epoch before."""
        ...

    def run(self, epoch: Epoch, start: int, stop: int) -> None:
        """Train through the steps from ``start`` to before ``stop``."""
        ...

    def metrics(self) -> dict[str, Tensor]:
        """Running means over the steps of the epoch so far, (num_models,) each."""
        ...

    def traces(self) -> dict[str, Tensor]:
        """Arrays to be kept of the epoch, by name."""
        ...

    def first_bad_layer(self, member: int) -> str | None:
        """The first layer of a member whose weights are not finite, in words."""
        ...

    def state_dict(self) -> dict:
        """All that a checkpoint needs to go on from here: tensors and plain values."""
        ...

    def load_state_dict(self, saved: dict) -> None:
        """Restore a ``state_dict``, in place."""
        ...


Evaluator = Callable[[bool], dict[str, dict[str, Tensor]]]
"""``evaluate(before_training) -> {split: {name: (num_models,)}}``; the training split only before training."""

ProbeFunction = Callable[[int], dict[str, Tensor]]
"""``probe(epoch) -> {name: array}``: small arrays to be kept of an epoch, nothing at most of them."""


class Task(NamedTuple):
    """What ``fit`` needs.

    evaluate: scores the models before training and after each epoch.  schedule: steps once per epoch, or as often as it
    has ``parts``, at the same steps of an epoch however it is cut into chunks.  probe: looks at the models before
    training and after each epoch.
    sizes: of the models' inputs and outputs, for ``make_model``.  numbers_kept: of each model, to learn from the next
    sample, beside its weights and what the optimizer keeps of them.
    """

    engine: Engine
    evaluate: Evaluator
    schedule: LRScheduler
    sizes: dict[str, Any]
    probe: ProbeFunction
    numbers_kept: int


def evaluate(ensemble: Ensemble, split: Split, batch_size: int) -> dict[str, Tensor]:
    """Mean cross-entropy and accuracy of every member over a split, (num_models,) each, on the host."""
    loss = torch.zeros(ensemble.num_models, device=split.inputs.device)
    correct = torch.zeros_like(loss)
    for inputs, labels in zip(split.inputs.split(batch_size), split.labels.split(batch_size), strict=True):
        logits = ensemble.predict(inputs)
        repeated = labels.expand(len(logits), -1)
        loss += cross_entropy(logits.mT, repeated, reduction="none").sum(1)
        correct += (logits.argmax(-1) == repeated).sum(1)
    num = len(split.labels)
    return {"loss": (loss / num).cpu(), "accuracy": (correct / num).cpu()}


def fit(
    task: Task,
    generator: torch.Generator,
    recorder: Recorder,
    num_epochs: int,
    log_interval: int,
    checkpoint: dict | None = None,
) -> None:
    """Train for ``num_epochs`` epochs, from the start or from a checkpoint.

    generator: draws the order of the data, all of an epoch at its start.  recorder: the run folder.
    log_interval: steps of the run between two step logs.  checkpoint: as ``load_checkpoint`` returned it.
    Raises Diverged when any metric is not finite, before that epoch is recorded.
    """
    engine, schedule, probe, first, resumed_at = task.engine, task.schedule, task.probe, 1, 0
    if checkpoint:
        first, resumed_at = restore(checkpoint, engine, schedule, generator)
    begin = time.perf_counter()
    with paused_collector():
        engine.compile()
    recorder.seconds["compile"] += time.perf_counter() - begin
    if not checkpoint:
        scores = task.evaluate(True)  # after compile: a reservoir's engine scores with its compiled code
        check_finite(scores, engine, 0, 0)
        recorder.end_epoch(0, scores, {"traces": engine.traces(), "arrays": probe(0)})
    num_steps, parts = engine.sampler.steps, getattr(schedule, "parts", 1)
    recorder.begin(num_epochs, total=num_epochs * num_steps, done=(first - 1) * num_steps + resumed_at)

    for epoch in range(first, num_epochs + 1):
        drawn_from = generator.get_state()
        plan = engine.draw_epoch(generator)
        if not resumed_at:
            engine.begin_epoch()

        def snapshot(step: int, epoch=epoch, drawn_from=drawn_from) -> dict:
            return {
                "epoch": epoch,
                "step": step if step < num_steps else None,
                "engine": engine.state_dict(),
                "engine_name": engine.name,
                "schedule": schedule.state_dict(),
                "random": drawn_from if step < num_steps else generator.get_state(),
            }

        begin = time.perf_counter()
        before = (epoch - 1) * num_steps
        for start, stop in chunks(resumed_at, num_steps, log_interval, before, parts):
            engine.run(plan, start, stop)
            for _ in range(stop * parts // num_steps - start * parts // num_steps):
                schedule.step()
            if (before + stop) % log_interval == 0:
                metrics = engine.metrics()
                check_finite({"train": metrics}, engine, epoch, stop)
                recorder.step(before + stop, metrics)
            if recorder.after_chunk(stop - start) and stop < num_steps:
                check_finite({"train": engine.metrics()}, engine, epoch, stop)
                recorder.save(snapshot(stop))
        metrics = engine.metrics()
        recorder.steps += num_steps - resumed_at
        recorder.seconds["training"] += time.perf_counter() - begin
        scores = {"train": metrics, **task.evaluate(False)}
        check_finite(scores, engine, epoch, num_steps)

        recorder.end_epoch(epoch, scores, {"traces": engine.traces(), "arrays": probe(epoch)})
        if recorder.checkpoint_due(epoch):
            recorder.save(snapshot(num_steps))
        resumed_at = 0


def restore(checkpoint: dict, engine: Engine, schedule: LRScheduler, generator: torch.Generator) -> tuple[int, int]:
    """Put everything back as it was; returns the epoch to go on in and its next step.

    Raises UserError for a checkpoint that is not of these models.
    """
    saved, own = checkpoint["engine"], engine.state_dict()
    own.pop("optimizer")  # empty before the first step; ``load_optimizer`` checks it
    difference = layout_difference({name: saved.get(name) for name in own}, own)
    rates = match_rates(checkpoint["schedule"], schedule.state_dict())
    difference = difference or layout_difference(rates, schedule.state_dict(), "schedule")
    epoch, step = checkpoint["epoch"], checkpoint["step"]
    try:
        if difference:
            raise ValueError(difference)
        if step is not None and step >= engine.sampler.steps:
            raise ValueError(f"step is {step} of {engine.sampler.steps}")
        engine.load_state_dict(saved)
        schedule.load_state_dict(rates)
        generator.set_state(checkpoint["random"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"the checkpoint is of another model ({error}); expected one that this run wrote") from error
    return (epoch + 1, 0) if step is None else (epoch, step)


def match_rates(saved: Any, own: Any) -> Any:
    """A saved schedule whose rates are tensors where this device's are (a CUDA graph reads them), else floats."""
    if isinstance(saved, dict) and isinstance(own, dict):
        return {name: match_rates(value, own.get(name)) for name, value in saved.items()}
    if isinstance(saved, list) and isinstance(own, list) and len(saved) == len(own):
        return [match_rates(*pair) for pair in zip(saved, own, strict=True)]
    if isinstance(own, Tensor) and isinstance(saved, float):
        return torch.full_like(own, saved)
    return saved.item() if isinstance(own, float) and isinstance(saved, Tensor) and saved.numel() == 1 else saved


def chunks(start: int, stop: int, log_interval: int, before: int = 0, parts: int = 1) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) into ranges of about ``CHUNK_SECONDS`` that end at every multiple of log_interval.

    stop: the steps of an epoch; ranges also end where each of its ``parts`` equal parts ends.  before: steps of the run
    before this epoch, as log_interval counts from the start of the run.
    """
    size = 8
    while start < stop:
        end_of_part = -(-(start * parts // stop + 1) * stop // parts)
        end = min(start + size, end_of_part, ((before + start) // log_interval + 1) * log_interval - before)
        begin = time.perf_counter()
        yield start, end
        if end - start == size:
            elapsed = time.perf_counter() - begin
            size = max(1, min(2 * size, int(size * CHUNK_SECONDS / max(elapsed, 1e-9))))
        start = end


def check_finite(scores: dict[str, dict[str, Tensor]], engine: Engine, epoch: int, step: int) -> None:
    """Raises Diverged naming member, epoch, step and layer where a metric ``{split: {name: ...}}`` is not finite."""
    for split, metrics in scores.items():
        for name, values in metrics.items():
            bad = (~values.isfinite()).nonzero().flatten().tolist()
            if bad:
                where = engine.first_bad_layer(bad[0])
                raise Diverged(
                    f"{split} {name} of model {bad[0]} is {values[bad[0]].item()} in epoch {epoch}, by step {step}"
                    f"{f', {where} has weights that are not finite' if where else ''}; expected finite numbers: "
                    "lower optimizer.lr, or look at hsic.sigmas and the data"
                )
