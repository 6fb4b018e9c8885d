"""What no command of the project does alone, timed in a process of its own.

    python -m benchmarks.inside evaluation '{"data": "data", "repetitions": 3}'

The last line printed is what the program returns, as JSON.
"""

import json
import sys
import time
from collections.abc import Callable

import torch
from torch.nn.functional import avg_pool2d, conv2d

from projectlib.config.compose import compose
from projectlib.engines.cpu.cnn import weight_gradient
from projectlib.ensemble import build_ensemble
from projectlib.models.make import make_model
from projectlib.training.loop import evaluate
from projectlib.training.tasks import load_dataset, seeds, use_threads


def main() -> None:
    program, arguments = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(PROGRAMS[program](**arguments)))


def cuda() -> str | None:
    """The name of the CUDA device, where there is one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def evaluation(data: str, repetitions: int) -> list[float]:
    """Seconds that one model takes for all training images of MNIST, as ``fit`` scores it before training."""
    config = compose("train-biohsic", ["data=mnist", f"data.root={data}", "nmodels=1"])
    dataset = load_dataset(config)
    sizes = {"input_shape": list(dataset.input_shape), "num_classes": dataset.num_classes}
    ensemble = build_ensemble(lambda generator: make_model(config, sizes, generator), seeds(config))
    use_threads(ensemble)

    def score() -> None:
        evaluate(ensemble, dataset.train, config.data.test_batchsize)

    return [clock(score) for _ in range(repetitions)]


def convolutions(features: list[int], window: int, seconds: float) -> dict[str, float]:
    """Microseconds of a CNN step's convolutions alone, in both memory formats.

    Both layers run forward on the window of CIFAR-10 images, and the weight gradients of its newest sample are taken;
    no layer norm, no signal, no optimizer.
    """
    with torch.no_grad():
        return {
            str(layout).removeprefix("torch."): bare_step(features, window, layout, seconds)
            for layout in (torch.contiguous_format, torch.channels_last)
        }


def bare_step(features: list[int], window: int, layout: torch.memory_format, seconds: float) -> float:
    first, second = features
    x = torch.randn(window, 3, 32, 32).contiguous(memory_format=layout)
    weights = [torch.randn(first, 3, 3, 3), torch.randn(second, first, 3, 3)]
    weights = [weight.contiguous(memory_format=layout) for weight in weights]
    biases = [torch.zeros(first), torch.zeros(second)]
    pooled = avg_pool2d(conv2d(x, weights[0], biases[0], padding=1), 2).contiguous(memory_format=layout)
    signals = [torch.randn(1, first, 32, 32), torch.randn(1, second, 16, 16)]
    signals = [signal.contiguous(memory_format=layout) for signal in signals]

    def step() -> None:
        for h, weight, bias, signal in zip((x, pooled), weights, biases, signals, strict=True):
            conv2d(h, weight, bias, padding=1)
            weight_gradient(signal, h[-1:], weight)

    step()
    num = max(1, int(seconds / clock(step)))
    return 1e6 * clock(lambda: [step() for _ in range(num)]) / num


def clock(function: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


PROGRAMS = {"cuda": cuda, "convolutions": convolutions, "evaluation": evaluation}

if __name__ == "__main__":
    main()
