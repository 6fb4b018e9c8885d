"""Signals that ask a run to stop: the first one after a checkpoint, the second one at once."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any

from projectlib.errors import Interrupted

NAMES = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGHUP")  # SIGUSR2: submitit, before a time limit
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # Windows has two of them
TOGETHER = 0.2  # seconds within which two signals are one: a group's, which is also passed on


class Interrupts:
    """Listens for SIGTERM, SIGUSR1, SIGUSR2, SIGHUP and Ctrl-C while it is entered as a context.

    Outside the main thread signals cannot be listened to; a run there goes on until it is killed.
    """

    def __init__(self):
        self.requested = self.answered = False
        self.signal_name, self.requested_at = "", 0.0
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            # under nohup a run outlives its terminal
            heard = [n for n in SIGNALS if n.name != "SIGHUP" or signal.getsignal(n) != signal.SIG_IGN]
            self.previous = {number: signal.signal(number, self.on_signal) for number in heard}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed from Python

    def on_signal(self, number: int, frame) -> None:
        if self.answered:  # the run is ending: one signal more, of a scheduler and its wrapper perhaps, changes nothing
            return
        if self.requested and time.monotonic() - self.requested_at > TOGETHER:
            raise SystemExit(128 + number)
        if not self.requested:
            self.requested, self.signal_name, self.requested_at = True, signal.Signals(number).name, time.monotonic()

    def raise_if_requested(self) -> None:
        if self.requested:
            self.answered = True
            raise Interrupted(self.signal_name)


class SweepInterrupts(Interrupts):
    """Of a process that waits for joblib's workers: their jobs end after a checkpoint, and the sweep with them."""

    def on_signal(self, number: int, frame) -> None:
        super().on_signal(number, frame)
        if number != signal.SIGINT:  # which a terminal sends to all
            for pid in [worker.pid for worker in multiprocessing.active_children() if worker.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)


def ignore_signals() -> None:
    """Let nothing change the exit code of a run that has ended."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def signal_previous_listener(name: str) -> None:
    """Give a signal to whoever listened before: submitit then queues its job again, or says why not."""
    number = signal.Signals[name]
    if number != signal.SIGINT and callable(signal.getsignal(number)):
        signal.raise_signal(number)
