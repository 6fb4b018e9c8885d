"""Crash test: start runs of all four scripts, kill them at random moments, resume them, compare with untouched ones.

    python tests/chaos.py --kills 50        (make chaos)

Checkpoints are large for the work between them, so that many kills fall inside the writing of one: a ``.partial``
file is then left behind.  Nothing of projectlib is imported here: files are compared as they lie on disk.  Every
life of a run is a process forked off this one, which has imported the heavy libraries once for all of them.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import runpy
import signal
import sys
import tempfile
import time
from pathlib import Path

import hydra
import matplotlib.figure
import numba
import sklearn.datasets
import torch
import torch._dynamo

IMPORTED = (hydra, matplotlib.figure, numba, sklearn.datasets, torch._dynamo)
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # what is beside it is tested, and not what may be installed
EXIT_RESUME = 75
SOON = 1.0  # seconds, from the start or from the first checkpoint of a life, within which it ends
EVERY_CHUNK = ["checkpointing.minutes=1e-9", "training.log_interval=4", "training.nepochs=3"]
CASES = {
    "biohsic": "train-biohsic data=xor nmodels=2 model.features=[200,100] engine=eager lr_schedule=cosine",
    "bp": "train-bp data=digits nmodels=1 data.batchsize=4 engine=eager optimizer=sgd optimizer.momentum=0.9 "
    "lr_schedule=piecewise lr_schedule.milestones=[1,2]",
    "lif": "train-lif-biohsic data=xor nmodels=2 engine=eager data.batchsize=10 training.sample_timesteps=2 "
    "optimizer=adam lr_schedule=exponential",
    "reservoir": "train-reservoir data=xor nmodels=2 engine=eager model.nhidden=150 data.nsamples=60 model.noise=0.01",
    "biohsic compiled": "train-biohsic data=digits nmodels=2 engine=compiled training.log_hsic=true",
    "cnn compiled": "train-biohsic data=digits model=cnn model.features=[4,8] nmodels=1 engine=compiled",
    "lif compiled": "train-lif-biohsic data=xor nmodels=1 engine=compiled data.batchsize=10",
}
fork = multiprocessing.get_context("fork")


def run_script(name: str, arguments: list[str], printed: Path) -> None:
    """What a forked process does: the script as its command line runs it, output to a file."""
    with open(printed, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [str(ROOT / f"{name}.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def start(case: str, folder: Path, resume: bool) -> multiprocessing.Process:
    """Begin a case in a folder, or go on with it."""
    name, *settings = CASES[case].split()
    limit = [] if name == "train-reservoir" else ["data.limit=100"]
    arguments = [f"resume={folder}"] if resume else [*settings, *limit, *EVERY_CHUNK, f"hydra.run.dir={folder}"]
    process = fork.Process(target=run_script, args=(name, arguments, folder.with_suffix(".log")))
    process.start()
    return process


def finish(process: multiprocessing.Process, folder: Path) -> None:
    """Wait for a run's end.  Raises RuntimeError unless it succeeds."""
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{folder} exited with {process.exitcode}:\n{folder.with_suffix('.log').read_text()}")


def partial_files(folder: Path) -> set[Path]:
    """Files that are being written, or were when their writer died."""
    return {*folder.glob("**/.*.partial")}


def kill_at_random(process: multiprocessing.Process, folder: Path, chance: random.Random) -> bool:
    """End a process: while it starts, some time after its first new checkpoint, or while it writes one.

    False where the process had ended by itself.
    """
    moment = chance.choice(["start", "anywhere", "writing", "writing"])
    checkpoints, left_over = times(folder.glob("checkpoints/*.pt")), times(partial_files(folder))
    while moment != "start" and process.is_alive() and times(folder.glob("checkpoints/*.pt")) == checkpoints:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, SOON))
    while moment == "writing" and process.is_alive() and times(partial_files(folder)) in ({}, left_over):
        pass
    if not process.is_alive():
        return False
    number = chance.choice([signal.SIGKILL] * 4 + [signal.SIGTERM, signal.SIGUSR1])
    os.kill(process.pid, number)
    process.join()
    allowed = {-number} if number == signal.SIGKILL else {-number, EXIT_RESUME, 0}  # 0: it was about to end
    if process.exitcode not in allowed:
        raise RuntimeError(
            f"{number.name} ended {folder} with {process.exitcode}:\n{folder.with_suffix('.log').read_text()}"
        )
    return process.exitcode != 0


def times(paths) -> dict[Path, int]:
    """When files were last changed."""
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # deleted while we look
            found[path] = path.stat().st_mtime_ns
    return found


def disturbed_run(case: str, folder: Path, chance: random.Random, max_kills: int) -> tuple[int, int, int]:
    """A run killed at most ``max_kills`` times and resumed to its end: (kills, of these in a write, resumes)."""
    kills = inside = resumes = 0
    while True:
        resume = (folder / ".hydra" / "overrides.yaml").exists()
        resumes += resume
        before = times(partial_files(folder))
        process = start(case, folder, resume)
        if kills == max_kills or not kill_at_random(process, folder, chance):
            finish(process, folder)
            return kills, inside, resumes
        kills += 1
        inside += times(partial_files(folder)) not in ({}, before)


def differences(run: Path, reference: Path) -> list[str]:
    """In what two finished run folders differ: metrics byte for byte, the last checkpoint and arrays bit for bit."""
    found = []
    if (run / "metrics.csv").read_bytes() != (reference / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    for path in reference.glob("*.npz"):
        if path.read_bytes() != (run / path.name).read_bytes():
            found.append(path.name)
    last, wanted = (max((folder / "checkpoints").glob("epoch-????.pt")) for folder in (run, reference))
    if last.name != wanted.name:
        found.append(f"{last.name} instead of {wanted.name}")
    saved, expected = (torch.load(path, weights_only=True) for path in (last, wanted))
    for key in ("engine", "schedule", "random", "history", "arrays"):
        found += [f"{last.name}: {key}{place}" for place in unequal(saved[key], expected[key])]
    return found


def unequal(a, b, place: str = "") -> list[str]:
    """Where nested values of two checkpoints are not bit for bit the same."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        return [] if same else [place]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [difference for key in a for difference in unequal(a[key], b[key], f"{place}[{key!r}]")]
    return [] if a == b else [place]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="at least so many in all")
    parser.add_argument("--cases", nargs="*", choices=[*CASES], default=[*CASES], help="all by default")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; another one every time by default")
    options = parser.parse_args()
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    chance, kills, inside, resumes, runs, wrong = random.Random(seed), 0, 0, 0, 0, []
    each = -(-options.kills // len(options.cases))
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        for case in options.cases:
            reference = Path(temporary, case.replace(" ", "-"))
            finish(start(case, reference, resume=False), reference)
            left = each
            while left > 0:
                folder = Path(f"{reference}-{runs}")
                counts = disturbed_run(case, folder, chance, max_kills=left)
                found = differences(folder, reference)
                left -= counts[0]
                kills, inside, resumes = kills + counts[0], inside + counts[1], resumes + counts[2]
                runs += 1
                wrong += found
                print(f"{case}: {counts[0]} kills, {counts[1]} inside a write, {counts[2]} resumes {found}", flush=True)
    print(f"kills {kills} ({inside} inside a write)  resumes {resumes}  runs {runs}  differences {len(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
