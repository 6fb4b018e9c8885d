"""numba as all kernels use it: one set of options, and a cache that notices changes in every kernel's file."""

import hashlib
from pathlib import Path

from numba import config, njit
from numba.core import caching

SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


class Named:
    """A place for the cache whose files are named for the state of this folder.

    By itself numba compiles again where the file of a function has changed, but not where that of one it calls has,
    and cannot read what was cached for a type that is no longer there.
    """

    def get_disambiguator(self) -> str:
        return f"{super().get_disambiguator()}-{SOURCES[:12]}"


class InGivenFolder(Named, caching.UserProvidedCacheLocator):
    """``NUMBA_CACHE_DIR``, where it is set."""


class InTree(Named, caching.InTreeCacheLocator):
    """``__pycache__`` beside the source."""


class InHome(Named, caching.UserWideCacheLocator):
    """The user's cache, where the source cannot be written to."""


PLACES = (InGivenFolder, InTree, InHome)
config.CACHE_LOCATOR_CLASSES = ",".join(f"{place.__module__}.{place.__name__}" for place in PLACES)

OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy"}

# All of fastmath but "nnan" and "ninf": a diverged run must show as NaN or inf in the results.
compiled = njit(**OPTIONS, fastmath={"nsz", "arcp", "contract", "afn", "reassoc"})

# Sums in the order in which they are written.
compiled_in_order = njit(**OPTIONS, fastmath={"contract"})

# Written out where it is called: handing a member's dozens of arrays to a function costs more than a small layer does.
inlined = njit(inline="always")
