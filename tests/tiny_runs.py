"""A run of three epochs in a second, and how it is stopped."""

import csv
import json
import os
import signal
import time
from contextlib import contextmanager

import pytest

from projectlib.runs.files import write_text
from projectlib.runs.recorder import Recorder

TINY = ("data.limit=36", "training.nepochs=3", "engine=eager")

XOR = ("train-biohsic", "data=xor", "nmodels=1", "data.batchsize=6", *TINY)


@contextmanager
def stopped_at(num_steps, number=signal.SIGTERM, times=1):
    """Within it, every run sends its process a real signal once it has done so many steps."""
    after_chunk = Recorder.after_chunk

    def count(self, steps):
        before = self.__dict__.setdefault("counted", 0)
        self.counted += steps
        if before < num_steps <= self.counted:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return after_chunk(self, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "after_chunk", count)
        yield


def metrics(folder, **values):
    """The rows of metrics.csv as text, by column: those that have these values."""
    with open(folder / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if values.items() <= row.items()]


def accuracies(folder, split="test"):
    """Of every model after the last epoch."""
    rows = metrics(folder, split=split)
    return [float(row["accuracy"]) for row in rows if row["epoch"] == rows[-1]["epoch"]]


def status(folder):
    return json.loads((folder / "summary.json").read_text())["status"]


def unfinish(folder, status="interrupted"):
    write_text(folder / "summary.json", json.dumps({"status": status}))


def wait_for(condition, what, seconds=120):
    """Until the condition is true.  Raises TimeoutError, which says what was waited for, after ``seconds``."""
    last = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > last:
            raise TimeoutError(f"{what} did not come within {seconds} s")
        time.sleep(0.05)
