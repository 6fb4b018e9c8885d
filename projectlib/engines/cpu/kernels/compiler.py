"""numba as all kernels use it: sets of options, and a cache that notices changes in every kernel's file."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from numba import config, njit
from numba.core import caching


def kernel_sources() -> bytes:
    """All that kernels are made of."""
    folder = Path(__file__).parent
    return b"".join(path.read_bytes() for path in sorted(folder.glob("[!.]*.py")))


STATE = hashlib.sha256(kernel_sources()).hexdigest()[:12]


class NamedForState:
    """A locator of cache files that are named for the state of all kernels.

    By itself numba compiles again where the file of a function has changed, but not where that of one it calls has,
    and cannot read what was cached for a type that is no longer there. Files of earlier states stay, until
    ``make clean``.
    """

    def get_disambiguator(self) -> str:
        return f"{super().get_disambiguator()}-{STATE}"


class GivenFolderLocator(NamedForState, caching.UserProvidedCacheLocator):
    """``NUMBA_CACHE_DIR``, where it is set."""


class SourceFolderLocator(NamedForState, caching.InTreeCacheLocator):
    """``__pycache__`` beside the source."""


class UserFolderLocator(NamedForState, caching.UserWideCacheLocator):
    """The user's cache, where the source cannot be written to."""


LOCATORS = (GivenFolderLocator, SourceFolderLocator, UserFolderLocator, caching.ZipCacheLocator)


def compiler(fastmath: set[str]) -> Callable:
    """A decorator that compiles a kernel for float32 arrays, without the GIL, and caches it.

    numba has one setting of where its cache lies, for the whole process: it is ours only while we decorate, and never
    where the user has set it.
    """
    compile_kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath=fastmath)

    def decorate(function: Callable) -> Callable:
        before = config.CACHE_LOCATOR_CLASSES
        config.CACHE_LOCATOR_CLASSES = before or ",".join(f"{c.__module__}.{c.__name__}" for c in LOCATORS)
        try:
            return compile_kernel(function)
        finally:
            config.CACHE_LOCATOR_CLASSES = before

    return decorate


# All of fastmath but "nnan" and "ninf": a diverged run must show as NaN or inf in the results.
compiled = compiler({"nsz", "arcp", "contract", "afn", "reassoc"})

# Sums in the order in which they are written.
compiled_in_order = compiler({"contract"})

# Written out where it is called: handing a member's dozens of arrays to a function costs more than a small layer does.
inlined = njit(inline="always")
