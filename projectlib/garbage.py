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
    """Keep Python from collecting garbage at exit, which takes a second or two with torch."""
    atexit.register(gc.freeze)
