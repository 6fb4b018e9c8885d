"""How a step grows with the number of models, the window and the width, beside the floor program's line."""

import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.commands import Bench
from benchmarks.results import number, spread, table

LEAVES = 1.25  # a curve has left the floor's line where its ratio to it is so many times the least one before
INPUTS, CLASSES, SECOND = 784, 10, 64


class Size(NamedTuple):
    """What is varied, one at a time: models, samples in a window, neurons of the first hidden layer."""

    nmodels: int = 1
    window: int = 6
    width: int = 128

    @property
    def num_weights(self) -> int:
        return INPUTS * self.width + self.width * SECOND + SECOND * CLASSES


class Point(NamedTuple):
    """Microseconds of one step of all models at one size, once a repetition; floor: none where there is none."""

    value: int
    compiled: list[float]
    eager: list[float]
    floor: list[float]

    @property
    def ratio(self) -> float | None:
        """Median of the ratios of what was timed in turn."""
        return median(c / f for c, f in zip(self.compiled, self.floor, strict=True)) if self.floor else None


AXES = {
    "nmodels": (1, 3, 10, 30, 100),
    "window": (2, 6, 16, 64, 256),
    "width": (64, 128, 256, 512, 1024, 2048),
}


def measure(bench: Bench) -> dict[str, list[Point]]:
    """Every axis, from its smallest size to its largest.

    The floor program has one model, one thread and one width: its line is drawn through its time by the number of
    models and by the number of weights, measured in turn with ours.
    """
    curves = {}
    for axis, values in AXES.items():
        curves[axis] = []
        for value in values[:2] if bench.quick else values:
            size = Size(**{axis: value})
            point = measure_point(bench, value, size)
            curves[axis].append(point)
            print(f"    {axis} {value}: {spread(point.compiled, 'us')}, eager {spread(point.eager, 'us')}", flush=True)
    return curves


def measure_point(bench: Bench, value: int, size: Size) -> Point:
    """Steps of the floor program, of the compiled and of the eager engine, in turn."""
    from projectlib.engines.cpu.mlp import CpuEngine
    from projectlib.engines.eager import EagerEngine

    compiled, eager = (make_engine(engine_class, size) for engine_class in (CpuEngine, EagerEngine))
    steps, seconds = max(100, bench.size(60_000, 600) // size.window), bench.size(100, 1) / 1000
    scale, point = size.nmodels * size.num_weights / Size().num_weights, Point(value, [], [], [])
    for _ in range(bench.size(3, 1)):
        point.floor.extend(scale * stick for stick in bench.floor_step(steps, size.window))
        point.compiled.append(clock_step(*compiled, seconds))
        point.eager.append(clock_step(*eager, seconds))
    return point


def make_engine(engine_class: type, size: Size) -> tuple:
    """An engine ready to run on random inputs, and an epoch of them."""
    import torch

    from projectlib.data import Dataset, Sampler, Split
    from projectlib.ensemble import build_ensemble
    from projectlib.models import mlp
    from projectlib.rules import BioHSIC
    from projectlib.training.tasks import use_threads

    generator, num = torch.Generator().manual_seed(0), 4096
    samples = Split(torch.rand(num, INPUTS, generator=generator), torch.randint(CLASSES, (num,), generator=generator))
    ensemble = build_ensemble(
        lambda generator: mlp([INPUTS], CLASSES, [size.width, SECOND], generator), range(size.nmodels)
    )
    use_threads(ensemble)
    optimizer = torch.optim.AdamW([p for layer in ensemble.parameters for p in layer.values()], lr=1e-4, fused=True)
    rule, sampler = BioHSIC(gamma=2.0, sigmas=(0.5, 0.1, 1.0)), Sampler(num, size.window, sliding=True)
    engine = engine_class(ensemble, rule, optimizer, Dataset("random", samples, samples, CLASSES), sampler)
    engine.compile()
    return engine, engine.draw_epoch(generator)


def clock_step(engine, epoch, seconds: float) -> float:
    """Microseconds of a step, over a range of steps that is doubled until it takes ``seconds``."""
    num, most = 1, engine.sampler.steps
    while True:
        begin = time.perf_counter()
        engine.run(epoch, 0, num)
        elapsed = time.perf_counter() - begin
        if elapsed >= seconds or num == most:
            return 1e6 * elapsed / num
        num = min(2 * num, most)


def leaves(points: list[Point]) -> int | None:
    """The first size at which a curve has left the floor's line; None where it stays on it, or there is none."""
    least = float("inf")
    for point in points:
        if point.ratio is None:
            return None
        if point.ratio > LEAVES * least:
            return point.value
        least = min(least, point.ratio)
    return None


def verdict(axis: str, points: list[Point]) -> str:
    """Where a curve leaves the floor's line, in words."""
    if not points[0].floor:
        return f"{axis}: no floor program was given, so there is no line to leave."
    ratios = {point.value: point.ratio for point in points}
    left = leaves(points)
    ends = " and ".join(f"{number(point.ratio)} x the floor at {point.value}" for point in (points[0], points[-1]))
    if left is None:
        return f"{axis}: stays on the floor's line or below it ({ends})."
    least = min(ratio for value, ratio in ratios.items() if value < left)
    jump = f"{number(ratios[left])} x the floor after {number(least)} x"
    return f"{axis}: leaves the floor's line at {left}, {jump} ({ends})."


def section(curves: dict[str, list[Point]], figure: str) -> str:
    """The part of the report: figure, verdicts and numbers."""
    header = ("axis", "size", "compiled", "eager", "floor", "compiled / floor")
    lines = [
        [
            axis,
            str(point.value),
            spread(point.compiled, "us"),
            spread(point.eager, "us"),
            spread(point.floor, "us"),
            "" if point.ratio is None else number(point.ratio),
        ]
        for axis, points in curves.items()
        for point in points
    ]
    about = (
        "Time a step of all models, MNIST-sized inputs, MLP [128, 64], window 6, one of these varied at a time. The "
        "floor's line is one core's: its time by the number of models and of weights, measured in turn. A "
        f"curve has left it where its ratio to it is more than {LEAVES} times the least ratio at a smaller size."
    )
    verdicts = "\n".join(f"- {verdict(axis, points)}" for axis, points in curves.items())
    return "\n\n".join(["## Growth", about, f"![Time a step against size]({figure})", verdicts, table(header, lines)])


def draw(curves: dict[str, list[Point]], path: Path) -> None:
    """Time a step against each axis, both scales logarithmic."""
    from projectlib.plotting.page import new_figure
    from projectlib.plotting.style import BLACK, BLUE, VERMILION, Look, legend, styled

    labels = {"nmodels": "models", "window": "samples in a window", "width": "neurons of the first layer"}
    looks = {"eager": Look(VERMILION, "--", "^"), "compiled": Look(BLUE, "-", "o"), "floor": Look(BLACK, "-.", "D")}
    with styled():
        figure, panels = new_figure(1, len(curves), width=3.6, sharey=True)
        for axes, (axis, points) in zip(panels, curves.items(), strict=True):
            values = [point.value for point in points]
            for name, look in looks.items():
                times = [getattr(point, name) for point in points]
                if all(times):
                    axes.plot(values, [median(t) for t in times], **look._asdict(), label=name)
                    axes.fill_between(
                        values, list(map(min, times)), list(map(max, times)), color=look.color, alpha=0.2, linewidth=0
                    )
            left = leaves(points)
            if left is not None:
                axes.axvline(left, color="0.6", lw=1, ls=":")
            axes.set(xscale="log", yscale="log", xlabel=labels[axis], title=f"A step by {labels[axis]}")
            axes.set_xticks(values, [str(value) for value in values])
            axes.minorticks_off()
        panels[0].set_ylabel("µs a step")
        legend(panels[-1])
        figure.savefig(path, dpi=150)


def plain(curves: dict[str, list[Point]]) -> dict:
    """For JSON."""
    return {
        axis: {"leaves_floor_at": leaves(points), "points": [point._asdict() for point in points]}
        for axis, points in curves.items()
    }
