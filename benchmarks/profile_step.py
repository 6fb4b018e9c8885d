"""Where a compiled CPU step's time goes: each part of the kernels repeated alone on one model's real data.

    python -m benchmarks.profile_step train-biohsic data=mnist
    python -m benchmarks.profile_step train-lif-biohsic data=xor

Parts run with what they need warm in the caches, so that they add up to less than the whole step, which is timed too.
"""

import sys
import time

import numpy as np
import torch

from projectlib.cli.job import flushed_subnormals
from projectlib.config.compose import compose
from projectlib.engines.cpu import optimizer as kernel_optimizer
from projectlib.engines.cpu.kernels import hsic as hsic_kernels
from projectlib.engines.cpu.kernels import mlp as kernels
from projectlib.engines.cpu.kernels.compiler import compiled
from projectlib.engines.cpu.mlp import COMPARE, CpuEngine
from projectlib.training.tasks import build_task

SECONDS = 0.5  # that a part is repeated for


@compiled
def repeat_forward(num, member, work, rate):
    for _ in range(num):
        kernels.forward(member, work, rate)


@compiled
def repeat_readout(num, work, labels, rate):
    total = 0.0
    for _ in range(num):
        total += kernels.readout_signal(
            work.u[len(work.u) - 1], labels, work.signal[len(work.u) - 1], rate, work.places
        )[0]
    return total


@compiled
def repeat_hsic(num, work, sigma):
    total = np.float32(0)
    for _ in range(num):
        for layer in range(len(work.u)):
            total += hsic_kernels.hsic(
                work.pairs[0], work.pairs[1], work.h[layer + 1], sigma, work.around, work.pairs[2]
            )[0]
    return total


@compiled
def repeat_learn(num, member, feedback_paths, work, labels, learning, weights, rate, optimizers):
    for _ in range(num):
        kernels.learn(member, feedback_paths, work, labels, learning, weights, rate, optimizers, 1000)


def main() -> None:
    script, *overrides = sys.argv[1:]
    config = compose(script, ["nmodels=1", "device=cpu", *overrides])
    with flushed_subnormals():
        profile(build_task(config, torch.device("cpu"), "compiled").engine)


def profile(engine: CpuEngine) -> None:
    """Print what each part of a time step takes; of rules that compare a batch without what its labels determine."""
    if type(engine) is not CpuEngine:
        sys.exit("error: expected an MLP or leaky integrators that learn from windows or batches: no memory, no images")
    engine.compile()
    epoch = engine.draw_epoch(torch.Generator().manual_seed(0))
    num = min(engine.sampler.steps, 500)
    engine.run(epoch, 0, num)

    window, num_timesteps = engine.sampler.size, engine.ensemble.network.num_timesteps
    indices = epoch.order.numpy()[: (num - 1) * engine.sampler.stride + window]
    samples, labels = engine.source.inputs.flatten(1).numpy()[indices], engine.source.labels.numpy()[indices]
    presentation, learning = engine.presentation(window), engine.learning()
    membranes = tuple(u[0].numpy() for u in engine.state.layers) if engine.is_dynamic else None
    member, compares = engine.member(0), learning.rule in COMPARE
    work = kernels.workspace(member, window, membranes, compares)
    work.h[0][:], work.rows[0][:] = samples[:window].T, samples[:window]
    weights = engine.shared_by_members(samples, labels, window)[1][0]
    rate, sigma = np.float32(presentation.rate), learning.sigma_z
    optimizers = tuple(kernel_optimizer.constants(engine.optimizer, index) for index in (0, -1))

    parts = {
        "forward": (repeat_forward, member, work, rate),
        "loss and signal of the readout": (repeat_readout, work, labels[:window], rate),
        "signals, gradients and optimizer": (
            repeat_learn,
            member,
            engine.feedback_paths(0, member),
            work,
            labels[:window],
            learning,
            weights,
            rate,
            optimizers,
        ),
    }
    if learning.log_hsic:
        parts["HSIC of all layers, logged"] = (repeat_hsic, work, sigma)
    whole = clock(lambda repetitions: [engine.run(epoch, 0, num) for _ in range(repetitions)]) / (num * num_timesteps)
    shared = clock(lambda n: [engine.shared_by_members(samples, labels, window) for _ in range(n)])
    shared /= num * num_timesteps
    print(f"{1e6 * whole:8.2f} us  a time step in all")
    print(f"{1e6 * shared:8.2f} us  kernels of the inputs, shared by all models")
    for name, (repeat, *arguments) in parts.items():
        repeat(1, *arguments)
        print(f"{1e6 * clock(lambda n, r=repeat, a=arguments: r(n, *a)):8.2f} us  {name}")


def clock(repeat) -> float:
    """CPU seconds of one repetition, which others on the machine hardly change, over about SECONDS of them."""
    num = 1
    while True:
        begin = time.process_time()
        repeat(num)
        elapsed = time.process_time() - begin
        if elapsed >= SECONDS / 2:
            return elapsed / num
        num = max(2 * num, int(num * SECONDS / max(elapsed, 1e-6)) if elapsed > SECONDS / 100 else 0)


if __name__ == "__main__":
    main()
