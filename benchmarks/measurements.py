"""Every row of the speed table: what it runs, what it is held against and what it must reach.

A measurement runs commands as a user does and returns its rows. What is compared is run in turn, A B A B, so that a
machine that slows down slows both.
"""

import sys
from collections.abc import Callable
from statistics import median

from benchmarks.commands import Bench, Trained
from benchmarks.made_up import write_images
from benchmarks.results import Limit, Result, Row

FEATURES, WINDOW = (128, 256), 6  # of the CNN on CIFAR-10


def mnist(bench: Bench) -> list[Result]:
    """One model's step, under the local rule and under back-propagation, beside the floor program's."""
    steps = bench.size(20_000, 200)
    floor, local, backprop = [], [], []
    for _ in range(bench.repetitions):
        floor += bench.floor_step(steps)
        local.append(mnist_run(bench, "train-biohsic", 1, 1, steps + WINDOW - 1))
        epochs = bench.size(2, 1)  # of plain batches, for as many steps as one of sliding windows
        backprop.append(mnist_run(bench, "train-bp", 1, epochs, steps * WINDOW // epochs))
    return [
        step_result(
            Row(
                "MNIST biohsic MLP [128, 64], window 6, nmodels=1, time a step",
                "us",
                (Limit(1.0, "stick"), Limit(1 / 14, "published")),
                published=2070,
                stick="floor",
            ),
            local,
            floor,
        ),
        step_result(
            Row("MNIST back-propagation, batch 6, nmodels=1", "us", (Limit(1.5, "stick"),), stick="biohsic"),
            backprop,
            [run.microseconds for run in local],
        ),
    ]


def mnist_ensemble(bench: Bench) -> list[Result]:
    """Thirty models' step, and the memory they take: all of MNIST is read, and the samples of these steps are kept."""
    num_models, steps = 30, bench.size(2_000, 20)
    floor, runs = [], []
    for _ in range(bench.repetitions):
        floor += bench.floor_step(bench.size(10_000, 200))
        runs.append(mnist_run(bench, "train-biohsic", num_models, 1, steps + WINDOW - 1))
    step = Row(
        "MNIST biohsic MLP [128, 64], window 6, nmodels=30 on all cores, time a step and model",
        "us",
        (Limit(0.6, "stick"),),
        published=2800,
        stick="floor",
    )
    memory = Row("peak memory, MNIST, nmodels=30", "GB", (Limit(2.5),))
    return [
        step_result(step, runs, floor, num_models),
        Result(memory, [run.command.peak_gigabytes for run in runs]),
    ]


def memories(bench: Bench) -> list[Result]:
    """A sample with a memory beside the step of a window, and a large memory beside a small one."""
    steps, averaged = bench.size(20_000, 200), ("optimizer=adamw-averaged",)
    variants = {
        "remembered 64": ("modulator=remembered",),
        "delta": ("modulator=delta",),
        "covariances": ("modulator=covariance",),
        "remembered 64, updates of 32": ("modulator=remembered", *averaged),
        "delta, updates of 32": ("modulator=delta", *averaged),
        "remembered 256": ("modulator=remembered", "modulator.size=256"),
    }
    results = []
    for name, overrides in variants.items():
        together, is_large = 32 if "32" in name else 1, name == "remembered 256"
        limit = 1.8 if is_large else 0.35 if together == 32 else 0.75
        runs, sticks = [], []
        for _ in range(bench.repetitions):
            against = (steps, "modulator=remembered", "modulator.size=6") if is_large else (steps + WINDOW - 1,)
            sticks.append(mnist_run(bench, "train-biohsic", 1, 1, *against).microseconds)
            runs.append(mnist_run(bench, "train-biohsic", 1, 1, steps * (3 if together > 1 else 1), *overrides))
        stick = "remembered 6" if is_large else "window"
        row = Row(f"MNIST {name}, nmodels=1, time a sample", "us", (Limit(limit, "stick"),), stick=stick)
        results.append(step_result(row, runs, sticks, together))
    whole = Row("MNIST class means, updates of 32, 5 epochs, nmodels=1, whole command", "s", (Limit(30),))
    arguments = ("data=mnist", f"data.root={bench.data}", "nmodels=1", f"training.nepochs={bench.size(5, 1)}")
    limited = () if bench.size(1, 0) else ("data.limit=200",)
    trained = [
        bench.train("train-biohsic", *arguments, *limited, "modulator=class-means", *averaged, cache="class-means")
        for _ in range(bench.repetitions + 1)
    ]
    return [*results, whole_result(whole, trained[1:])]


def comparisons(bench: Bench) -> list[Result]:
    """A batch under the rules that compare its samples, beside the same batch under back-propagation."""
    batches, averaged = bench.size(5_000, 20), "optimizer=adamw-averaged"
    rules = {"similarity matching": "similarity-matching", "plausible HSIC": "phsic", "batch HSIC": "hsic"}
    results = []
    for name, rule in rules.items():
        runs, sticks = [], []
        for _ in range(bench.repetitions):
            sticks.append(mnist_run(bench, "train-bp", 1, 3, 32 * batches // 3, averaged).microseconds)
            runs.append(mnist_run(bench, "train-biohsic", 1, 3, 32 * batches // 3, f"rule={rule}", averaged))
        limit, stick = Limit(1.5, "stick"), "back-propagation"
        row = Row(f"MNIST {name}, batch 32, nmodels=1, time a batch", "us", (limit,), stick=stick)
        results.append(step_result(row, runs, sticks))
    return results


def mnist_run(
    bench: Bench, script: str, num_models: int, num_epochs: int, num_samples: int, *overrides: str
) -> Trained:
    return bench.train(
        script,
        "data=mnist",
        f"data.root={bench.data}",
        f"data.limit={num_samples}",
        f"nmodels={num_models}",
        f"training.nepochs={num_epochs}",
        "engine=compiled",
        *overrides,
        cache="mnist",
    )


def step_result(row: Row, runs: list[Trained], sticks: list[float], num_models: int = 1) -> Result:
    """Microseconds a step and model of training runs."""
    measured = [run.microseconds / num_models for run in runs]
    return Result(row, measured, sticks, [run.compile_seconds for run in runs])


def evaluation(bench: Bench) -> list[Result]:
    seconds = bench.inside("evaluation", data=str(bench.data), repetitions=bench.repetitions)
    row = Row("evaluation of the 60,000 training images, nmodels=1", "s", (Limit(3),), published=95)
    return [Result(row, seconds)]


def lif_linear(bench: Bench) -> list[Result]:
    """The whole command, first with nothing compiled and then from the cache."""
    title = "LIF linear [4], window 64, 20 time steps, 25 epochs, nmodels=1, whole command, {}"
    arguments = ("train-lif-biohsic", "data=linear", "nmodels=1", f"training.nepochs={bench.size(25, 1)}")
    cold, *warm = (bench.train(*arguments, cache="linear") for _ in range(bench.repetitions + 1))
    return [
        whole_result(Row(title.format("warm compilation cache"), "s", (Limit(20),), published=122), warm),
        whole_result(Row(title.format("cold"), "s", (Limit(35),), published=122), [cold]),
    ]


def lif_xor(bench: Bench) -> list[Result]:
    arguments = ("data=xor", f"nmodels={bench.size(30, 2)}", f"training.nepochs={bench.size(25, 1)}")
    row = Row(
        "LIF XOR [10, 4], window 64, 20 time steps, 25 epochs, nmodels=30, whole command, cold",
        "s",
        (Limit(120),),
        published=3180,
    )
    return [whole_result(row, [bench.train("train-lif-biohsic", *arguments, cache="xor")])]


def reservoir(bench: Bench) -> list[Result]:
    arguments = (f"data.root={bench.data}", f"training.nepochs={bench.size(10, 1)}")
    row = Row("reservoir, 2000 units, 10 epochs, whole command, cold", "s", (Limit(45),), published=216)
    return [whole_result(row, [bench.train("train-reservoir", *arguments, cache="reservoir")])]


def whole_result(row: Row, runs: list[Trained]) -> Result:
    """Seconds that whole training commands took, compilation included and also reported apart."""
    return Result(row, [run.command.seconds for run in runs], [], [run.compile_seconds for run in runs])


def cnn(bench: Bench) -> list[Result]:
    """A CNN's step beside its bare convolutions, in the memory format in which these are faster."""
    steps = bench.size(300, 10)
    bare, runs = [], []
    for _ in range(bench.repetitions):
        bare.append(bench.inside("convolutions", features=FEATURES, window=WINDOW, seconds=bench.size(1, 0)))
        runs.append(cnn_run(bench, steps))
    layout, sticks = fastest(bare)
    row = Row(
        "CIFAR-10 biohsic CNN [128, 256], window 6, nmodels=1, time a step",
        "us",
        (Limit(2.0, "stick"),),
        stick=f"bare convolutions ({layout.replace('_', ' ')})",
    )
    return [step_result(row, runs, sticks)]


def cnn_memory(bench: Bench) -> list[Result]:
    """An image with a memory beside the step of a window."""
    window, delta = [], []
    for _ in range(bench.repetitions):
        window.append(cnn_run(bench, bench.size(600, 10)).microseconds)
        delta.append(cnn_run(bench, bench.size(2_000, 10), "modulator=delta"))
    row = Row("CIFAR-10 delta, CNN [128, 256], nmodels=1, time an image", "us", (Limit(0.4, "stick"),), stick="window")
    return [step_result(row, delta, window)]


def fastest(measured: list[dict[str, float]]) -> tuple[str, list[float]]:
    """Of several things measured side by side, the one with the smallest median, and its numbers."""
    columns = {name: [numbers[name] for numbers in measured] for name in measured[0]}
    return min(columns.items(), key=lambda item: median(item[1]))


def cnn_run(bench: Bench, steps: int, *overrides: str) -> Trained:
    images = bench.folder / f"images-{steps}"
    if not images.exists():
        write_images(images, steps + WINDOW - 1)
    return bench.train(
        "train-biohsic",
        "data=cifar10",
        "data.layout=folder",
        f"data.root={images}",
        "model=cnn",
        "nmodels=1",
        "training.nepochs=1",
        "engine=compiled",
        *overrides,
        cache="cnn",
    )


def help_text(bench: Bench) -> list[Result]:
    runs = [bench.command(sys.executable, "train-biohsic.py", "--help") for _ in range(bench.repetitions)]
    return [Result(Row("`--help` of a script", "s", (Limit(1.5),)), [run.seconds for run in runs])]


def demo(bench: Bench) -> list[Result]:
    """With kernels compiled; leaves run folders in outputs/, as it does."""
    bench.command("make", "demo", cache=None)  # compiles what has changed since the set-up
    seconds = bench.command("make", "demo", cache=None).seconds
    return [Result(Row("`make demo` after set-up", "s", (Limit(20),)), [seconds])]


def gpu(bench: Bench) -> list[Result]:
    """The two steps on a CUDA device; compilation is what capturing takes."""
    ensemble = Row("CUDA: MNIST biohsic, nmodels=30, time a step", "us", (Limit(60),))
    images = Row("CUDA: CIFAR-10 biohsic CNN [128, 256], nmodels=1, time a step", "us", (Limit(150),))
    device = bench.inside("cuda")
    if device is None:
        return [Result(row, note="not measured: no CUDA device") for row in (ensemble, images)]
    steps = bench.size(50_000, 4_000)
    mnist_arguments = ("data=mnist", f"data.root={bench.data}", f"data.limit={steps + WINDOW - 1}", "nmodels=30")
    pairs = [
        (
            bench.train("train-biohsic", *mnist_arguments, "training.nepochs=1", "engine=compiled", "device=cuda"),
            cnn_run(bench, bench.size(3_000, 300), "device=cuda", "training.nepochs=10"),
        )
        for _ in range(bench.repetitions)
    ]
    return [
        Result(row, [run.microseconds for run in runs], [], [run.compile_seconds for run in runs], note=device)
        for row, runs in zip((ensemble, images), zip(*pairs, strict=True), strict=True)
    ]


MEASUREMENTS: dict[str, Callable[[Bench], list[Result]]] = {
    "mnist": mnist,
    "mnist-30": mnist_ensemble,
    "memories": memories,
    "comparisons": comparisons,
    "evaluation": evaluation,
    "lif-linear": lif_linear,
    "lif-xor": lif_xor,
    "reservoir": reservoir,
    "cnn": cnn,
    "cnn-memory": cnn_memory,
    "help": help_text,
    "demo": demo,
    "gpu": gpu,
}
