"""Crash test: runs killed inside every kind of write and at random moments, resumed, compared with untouched ones.

    python tests/chaos.py                          (make chaos)
    python tests/chaos.py --seed 3 --kills 0       only the kills inside writes

Where it is decided that a life ends inside a write, the process kills itself there (``die_inside``), with half of the
bytes written, all of them, or just after.  Nothing of projectlib is imported here: files are compared as they lie on
disk.  Every life of a run is a process forked off this one, which has imported the heavy libraries once for all.
"""

import argparse
import contextlib
import logging
import multiprocessing
import os
import random
import re
import resource
import runpy
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import filelock
import hydra
import matplotlib.backends.backend_agg
import matplotlib.figure
import numba
import optuna
import pandas
import sklearn.datasets
import sqlalchemy.engine.default
import torch
import torch._dynamo
import tqdm.contrib.logging

IMPORTED = (hydra, matplotlib.backends.backend_agg, numba, optuna, pandas, sklearn.datasets, torch._dynamo, tqdm)
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # what is beside it is tested, and not what may be installed
EXIT_RESUME = 75
SOON = 1.0  # seconds, from the start or from the first checkpoint of a life, within which it ends
EVERY_CHUNK = ["checkpointing.minutes=1e-9", "training.log_interval=4", "training.nepochs=3"]
CASES = {
    "biohsic": "train-biohsic data=xor nmodels=2 model.features=[200,100] engine=eager lr_schedule=cosine "
    "training.log_arrays=[0,1,3]",
    "bp": "train-bp data=digits nmodels=1 data.batchsize=4 engine=eager optimizer=sgd optimizer.momentum=0.9 "
    "lr_schedule=piecewise lr_schedule.milestones=[1,2]",
    "lif": "train-lif-biohsic data=xor nmodels=2 engine=eager data.batchsize=10 training.sample_timesteps=2 "
    "optimizer=adam lr_schedule=exponential",
    "reservoir": "train-reservoir data=xor nmodels=2 engine=eager model.nhidden=150 data.nsamples=60 model.noise=0.01",
    "biohsic compiled": "train-biohsic data=digits nmodels=2 engine=compiled training.log_hsic=true "
    "training.log_arrays=[0,1,3]",
    "cnn compiled": "train-biohsic data=digits model=cnn model.features=[4,8] nmodels=1 engine=compiled",
    "lif compiled": "train-lif-biohsic data=xor nmodels=1 engine=compiled data.batchsize=10",
}
KERNELS = "kernel cache"
CASES_AND_KERNELS = {
    **CASES,
    KERNELS: "train-biohsic data=xor nmodels=1 engine=compiled data.batchsize=10 training.log_hsic=true",
}
fork = multiprocessing.get_context("fork")


class Kill(NamedTuple):
    """Inside the ``number``-th write of a kind: with "half" of it written, when it is "whole", or "after" it."""

    kind: str
    how: str
    number: int


HOW = ("half", "whole", "after")
MOMENTS = {"lock": ("after",), "log": ("half", "after"), "figure": ("half", "after")}  # that differ, of these
OF_A_RUN = ("settings", "metrics.csv", "checkpoint", "arrays", "summary.json", "figure", "log", "lock")
CHAIN = 8  # kills of one run


def kind_of(path: Path) -> str | None:
    """What a file that is renamed into its place is."""
    if path.parent.name == ".hydra":
        return "settings"
    endings = {".pt": "checkpoint", ".npz": "arrays", ".nbi": "kernel cache", ".nbc": "kernel cache", ".html": "report"}
    names = {"summary.json": "summary.json", "metrics.csv": "metrics.csv", "runs.csv": "collect"}
    return names.get(path.name, endings.get(path.suffix))


def die_inside(kill: Kill, chance: random.Random) -> None:
    """Let this process kill itself in a write to come."""
    left = kill.number

    def due(kind: str | None) -> bool:
        nonlocal left
        left -= kind == kill.kind
        return kind == kill.kind and left == 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def halve(path: Path) -> None:
        os.truncate(path, chance.randrange(max(os.path.getsize(path), 1)))

    rename, savefig, emit = os.replace, matplotlib.figure.Figure.savefig, logging.FileHandler.emit
    acquire, commit = filelock.FileLock.acquire, sqlalchemy.engine.default.DefaultDialect.do_commit

    def dying_rename(source, target, **keywords):
        now = due(kind_of(Path(target)))
        if now and kill.how != "after":
            if kill.how == "half":
                halve(Path(source))
            die()
        rename(source, target, **keywords)
        if now:
            die()

    def dying_savefig(self, path, *arguments, **keywords):
        savefig(self, path, *arguments, **keywords)
        if due("figure"):
            if kill.how == "half":
                halve(path)
            die()

    def dying_emit(self, record):
        now = due("log")
        if now and kill.how == "half" and self.stream is not None:
            line = self.format(record)
            self.stream.write(line[: len(line) // 2])
            self.flush()
        if not now or kill.how != "half":
            emit(self, record)
        if now:
            die()

    def dying_acquire(self, *arguments, **keywords):
        held = acquire(self, *arguments, **keywords)
        if due("lock"):
            die()
        return held

    def dying_commit(self, connection):
        now = due("study.db")
        if now and kill.how == "before":
            die()
        if now and kill.how == "inside":  # the system ends the process in the write that goes beyond this size
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit := chance.randrange(100, 40_000), limit))
        commit(self, connection)
        if now:
            die()

    os.replace, matplotlib.figure.Figure.savefig, logging.FileHandler.emit = dying_rename, dying_savefig, dying_emit
    filelock.FileLock.acquire, sqlalchemy.engine.default.DefaultDialect.do_commit = dying_acquire, dying_commit


def run_script(
    name: str, arguments: list[str], printed: Path, kill: Kill | None = None, seed: int = 0, cache: Path | None = None
) -> None:
    """What a forked process does: the script, or a module, as its command line runs it, output to a file."""
    with open(printed, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if cache:
        numba.config.CACHE_DIR = str(cache)
    if kill:
        die_inside(kill, random.Random(seed))
    sys.argv = [str(ROOT / f"{name}.py"), *arguments]
    sys.path.insert(0, str(ROOT))
    if name.startswith("projectlib."):
        runpy.run_module(name, run_name="__main__")
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def start(case: str, folder: Path, resume: bool, **life) -> multiprocessing.Process:
    """Begin a case in a folder, or go on with it.  life: further arguments of ``run_script``."""
    name, *settings = CASES_AND_KERNELS[case].split()
    limit = [] if name == "train-reservoir" else ["data.limit=100"]
    arguments = [f"resume={folder}"] if resume else [*settings, *limit, *EVERY_CHUNK, f"hydra.run.dir={folder}"]
    process = fork.Process(target=run_script, args=(name, arguments, folder.with_suffix(".log")), kwargs=life)
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
        resume = (folder / ".hydra" / "config.yaml").exists()
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


Life = Callable[[Kill | None, int], int]
"""One life of what is tried, to its end: the exit code."""


def kill_inside_writes(plan: list[Kill], live: Life, chance: random.Random) -> Counter:
    """Lives that end as planned, one after the other, and one that ends well; kills by kind and moment.

    A write that a life has no more of is left for a fresh start.
    """
    kills: Counter = Counter()
    for kill in plan:
        code = live(kill, chance.randrange(1 << 30))
        if code not in (0, -signal.SIGKILL, -signal.SIGXFSZ):
            raise RuntimeError(f"{kill} ended with {code}")
        kills[kill.kind, kill.how] += code != 0
    if code := live(None, 0):
        raise RuntimeError(f"after {plan} it ended with {code}")
    return kills


def of_a_case(
    case: str, reference: Path, chance: random.Random, cache: Path | None = None
) -> tuple[Counter, list[str]]:
    """Every kind of write of a run, at every moment: chains of kills in a run folder each.

    cache: of kernels, empty, whose writes it is about.
    """
    has = {"arrays": any(reference.glob("*.npz"))}
    kinds = ("kernel cache",) if cache else [kind for kind in OF_A_RUN if has.get(kind, True)]
    plan = [Kill(kind, how, chance.choice([1, 1, 2])) for kind in kinds for how in MOMENTS.get(kind, HOW)]
    chance.shuffle(plan)
    kills, found, folder, length = Counter(), [], reference, CHAIN

    def live(kill: Kill | None, seed: int) -> int:
        resume = (folder / ".hydra" / "config.yaml").exists()
        process = start(case, folder, resume, kill=kill, seed=seed, cache=cache)
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            printed = folder.with_suffix(".log").read_text()[-3000:]
            raise RuntimeError(f"{case}: {kill} in {folder} ended with {process.exitcode}:\n{printed}")
        return process.exitcode or 0

    def check() -> list[str]:
        left = [str(path) for path in partial_files(folder)]
        missing = [
            name for name in ("config", "hydra", "overrides") if not (folder / ".hydra" / f"{name}.yaml").exists()
        ]
        return differences(folder, reference) + left + missing

    while plan:
        if length == CHAIN:
            folder, length = Path(tempfile.mkdtemp(dir=reference.parent)) / "run", 0
        kill = plan.pop(0)
        if live(kill, chance.randrange(1 << 30)):
            kills[kill.kind, kill.how] += 1
            length += 1
            if length == CHAIN or not plan:
                live(None, 0)
                found += check()
        else:  # it had no such write any more: once again from the start
            found += check()
            plan = [kill._replace(number=1), *plan] if length or kill.number > 1 else plan
            length = CHAIN
    return kills, found


def of_a_search(place: Path, chance: random.Random) -> tuple[Counter, list[str]]:
    """A search killed inside commits of its study: every trial that ended is a run that was never disturbed."""
    words = "--multirun search=digits search.trials=8 search.heartbeat=1 nmodels=1 training.nepochs=1 data.limit=100 "
    words += f"engine=eager search.folder={place}/search hydra.sweep.dir={place}/sweep"
    numbers = {"before": (3, 9, 14), "inside": (2, 5, 8, 11, 14, 17), "after": (4, 10)}
    plan = [Kill("study.db", how, number) for how in numbers for number in numbers[how]]
    chance.shuffle(plan)

    def live(kill: Kill | None, seed: int) -> int:
        process = fork.Process(target=run_script, args=("train-biohsic", words.split(), place / "log", kill, seed))
        process.start()
        process.join()
        return process.exitcode or 0

    kills, found = kill_inside_writes(plan, live, chance), []
    with contextlib.closing(sqlite3.connect(place / "search" / "study.db")) as database:
        found += [] if database.execute("PRAGMA integrity_check").fetchone() == ("ok",) else ["study.db"]
        states = Counter(state for (state,) in database.execute("SELECT state FROM trials"))
    found += [] if states["COMPLETE"] + states["PRUNED"] >= 8 else [f"trials {states}"]
    for folder in sorted(path.parent for path in (place / "search").glob("*/summary.json")):
        whole = place / f"whole-{folder.name}"
        shutil.copytree(folder / ".hydra", whole / ".hydra")
        process = fork.Process(target=run_script, args=("train-biohsic", [f"resume={whole}"], place / "log"))
        process.start()
        process.join()
        found += [f"trial {folder.name}: {difference}" for difference in differences(folder, whole)]
    return kills, found


def of_a_table(
    module: str, output: str, words: list[str], place: Path, chance: random.Random
) -> tuple[Counter, list[str]]:
    """What is written of many runs: a file that was there stays whole, and the next attempt writes all of it."""
    path, kind = place / output, kind_of(Path(output))
    made, found = place / f"whole-{output}", []

    def live(kill: Kill | None, seed: int, target: Path = path) -> int:
        arguments = [*words, "-o", str(target)]
        process = fork.Process(target=run_script, args=(module, arguments, place / "log", kill, seed))
        process.start()
        process.join()
        return process.exitcode or 0

    def content(file: Path) -> bytes:
        return re.sub(rb"base64,[^\"]+", b"", file.read_bytes())  # a drawing has names and a date of its own

    live(None, 0, made)
    kills: Counter = Counter()
    for how in HOW:
        path.write_text("as it was")
        kills[kind, how] += live(Kill(kind, how, 1), chance.randrange(1 << 30)) == -signal.SIGKILL
        if content(path) not in (b"as it was", content(made)):
            found.append(f"{output} after a kill when it was {how}")
        live(None, 0)
        if content(path) != content(made):
            found.append(output)
    return kills, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="at least so many in all at random moments")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; another one every time by default")
    parser.add_argument("--cases", nargs="*", default=[*CASES], help="of the runs; all by default")
    parser.add_argument("--only-runs", action="store_true", help="neither search, tables nor the cache of kernels")
    options = parser.parse_args()
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    chance, kills, runs, wrong = random.Random(seed), Counter(), 0, []
    each = -(-options.kills // max(len(options.cases), 1))

    def note(what: str, counts: Counter, found: list[str]) -> None:
        kills.update(counts)
        wrong.extend(f"{what}: {difference}" for difference in found)
        print(f"{what}: {counts.total()} kills {found}", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        for case in options.cases:
            reference = Path(temporary, case.replace(" ", "-"))
            finish(start(case, reference, resume=False), reference)
            note(f"{case}, inside writes", *of_a_case(case, reference, chance))
            left = each
            while left > 0:
                folder = Path(f"{reference}-{runs}")
                number, inside, resumes = disturbed_run(case, folder, chance, max_kills=left)
                left -= number
                runs += 1
                counts = Counter({("random moment", "in a write"): inside, ("random moment", "else"): number - inside})
                note(f"{case}, {resumes} resumes", counts, differences(folder, reference))
        if not options.only_runs:
            reference = Path(temporary, "kernels")
            finish(start(KERNELS, reference, resume=False), reference)
            note(KERNELS, *of_a_case(KERNELS, reference, chance, Path(tempfile.mkdtemp(dir=temporary))))
            note("search", *of_a_search(Path(tempfile.mkdtemp(dir=temporary)), chance))
            place = Path(tempfile.mkdtemp(dir=temporary))
            note("collect", *of_a_table("projectlib.sweeps.collect", "runs.csv", [temporary], place, chance))
            words = [str(reference), str(reference)]
            note("report", *of_a_table("projectlib.plotting.report", "page.html", words, place, chance))
    print("\n".join(f"{kind:14}{how:12}{number:5}" for (kind, how), number in sorted(kills.items())))
    print("\n".join(wrong))
    print(f"kills {kills.total()}  differences {len(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
