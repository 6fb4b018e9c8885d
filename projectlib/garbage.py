"""Python's garbage collector, kept out of work that makes millions of objects and no garbage.

Imports and compilation do: looking for garbage among all they have made so far takes a quarter of their time.
"""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """No collection inside; afterwards as it was."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def skip_final_collection() -> None:
    """Spare the end of this process the search through all that goes with it: a second or two, once torch is there."""
    atexit.register(gc.freeze)
