"""Signals that ask a run to stop: the first one after a checkpoint, the second one at once."""

import signal
import threading

from projectlib.errors import Interrupted

EXIT_RESUME = 75  # "temporary failure" of sysexits.h: start it again with resume=<run folder>
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)  # SIGUSR2: submitit, before a time limit


class Interrupts:
    """Listens for SIGTERM, SIGUSR1 and Ctrl-C while it is entered as a context.

    Outside the main thread signals cannot be listened to; a run there goes on until it is killed.
    """

    def __init__(self):
        self.requested = False
        self.signal_name = ""
        self.previous: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self.on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def on_signal(self, number: int, frame) -> None:
        if self.requested:
            raise SystemExit(128 + number)
        self.requested, self.signal_name = True, signal.Signals(number).name

    def raise_if_requested(self) -> None:
        if self.requested:
            raise Interrupted(self.signal_name)


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
