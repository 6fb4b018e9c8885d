"""Running what a user runs, each in a process of its own, and reading what it says."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import ROOT

# window, then gamma, sigmas, learning rate and seed as the MNIST experiment has them
FLOOR_ARGUMENTS = "published 1 {window} 2 0.5 0.1 1 1e-4 1 {steps}"


class Failed(Exception):
    """A command that ended with an error, and the end of what it printed."""


class Finished(NamedTuple):
    """A command that has ended: its wall time, its peak memory, what it printed."""

    seconds: float
    peak_gigabytes: float
    output: str


class Trained(NamedTuple):
    """A training run: the command, and what its summary.json says."""

    command: Finished
    summary: dict[str, Any]

    @property
    def microseconds(self) -> float:
        """Of one step of the whole ensemble, compilation and evaluation left out."""
        return 1e6 / self.summary["steps_per_second"]

    @property
    def compile_seconds(self) -> float:
        return self.summary["compile_seconds"]


def run(command: list[str], environment: dict[str, str], log: Path) -> Finished:
    """Run a command from the project's root to its end.  log: a file for its output.  Raises Failed."""
    with log.open("w") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(process.pid, 0)  # of this child alone, as getrusage cannot tell
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    text = log.read_text(errors="replace")
    if process.returncode:
        raise Failed(
            f"{Path(command[0]).name} {' '.join(command[1:3])} ... ended with {process.returncode}: {text[-500:]}"
        )
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return Finished(seconds, usage.ru_maxrss * unit / 1e9, text)


def floor_microseconds(output: str) -> float:
    """Time a step, from what the floor program prints.  Raises Failed where it says nothing of it."""
    found = re.findall(r"([0-9.]+) us/step", output)
    if not found:
        raise Failed(f"no 'us/step' in what the floor program printed: {output[-200:]!r}")
    return float(found[-1])


@dataclass(frozen=True)
class Bench:
    """What all measurements share.

    folder: for everything they write.  data: holds MNIST/raw.  floor: the compiled floor program, if there is one.
    repetitions: of what takes seconds.  quick: every size so small that only errors can be seen.
    """

    folder: Path
    data: Path
    floor: Path | None
    repetitions: int
    quick: bool
    numbers: count = field(default_factory=count)

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def command(self, *words: str | Path, cache: str | None = "shared") -> Finished:
        """Run a command with a compilation cache of its own.

        cache: name of the cache, empty when first used; None for the one in the project, as a user has it.
        """
        number = next(self.numbers)
        print(f"    {' '.join(Path(word).name if Path(word).is_absolute() else str(word) for word in words)}", end="")
        print(flush=True, end=" ")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        if cache:
            environment["NUMBA_CACHE_DIR"] = str(self.folder / "cache" / cache)
        finished = run([str(word) for word in words], environment, self.folder / f"{number}.log")
        print(f"-> {finished.seconds:.1f} s", flush=True)
        return finished

    def train(self, script: str, *overrides: str, cache: str = "shared") -> Trained:
        """Run an entry script in a run folder of its own; on the CPU unless the overrides say otherwise."""
        folder = self.folder / f"run-{next(self.numbers)}"
        finished = self.command(
            sys.executable, f"{script}.py", "device=cpu", *overrides, f"hydra.run.dir={folder}", cache=cache
        )
        return Trained(finished, json.loads((folder / "summary.json").read_text()))

    def inside(self, program: str, **arguments: Any) -> Any:
        """What a program of ``benchmarks.inside`` returns, run in a process of its own."""
        finished = self.command(sys.executable, "-m", "benchmarks.inside", program, json.dumps(arguments))
        return json.loads(finished.output.splitlines()[-1])

    def floor_step(self, steps: int, window: int = 6) -> list[float]:
        """Microseconds of one step of the floor program: one number, or none where there is no such program."""
        if self.floor is None:
            return []
        arguments = FLOOR_ARGUMENTS.format(window=window, steps=steps).split()
        return [floor_microseconds(self.command(self.floor, self.data / "MNIST" / "raw", *arguments).output)]
