"""numba as all kernels use it: sets of options, and a cache that notices changes in every kernel's file."""

# numba sets its options as attributes when it is imported; a locator's methods are of the class that it is mixed into
# pyright: reportAttributeAccessIssue=false

import gc
import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from filelock import FileLock
from numba import config, njit
from numba.core import caching

log = logging.getLogger(__name__)

OPEN_FILES = 1024  # as many as a process usually may have
PATIENCE = 120  # seconds to wait for another process that compiles the same

KERNEL_FILES = sorted(Path(__file__).parent.glob("[!.]*.py"))
SOURCES_DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in KERNEL_FILES)).hexdigest()[:12]


class VersionedLocator:
    """Names cache files after a digest of all kernel sources.

    By itself numba compiles again where the file of a function has changed, but not where that of one it calls has,
    and cannot read what was cached for a type that is no longer there. Files of earlier states stay, until
    ``make clean``.
    """

    def get_disambiguator(self) -> str:
        return f"{super().get_disambiguator()}-{SOURCES_DIGEST}"


class GivenFolderLocator(VersionedLocator, caching.UserProvidedCacheLocator):
    """``NUMBA_CACHE_DIR``, where it is set."""


class SourceFolderLocator(VersionedLocator, caching.InTreeCacheLocator):
    """``__pycache__`` beside the source."""


class UserFolderLocator(VersionedLocator, caching.UserWideCacheLocator):
    """The user's cache, where the source cannot be written to."""


LOCATORS = (GivenFolderLocator, SourceFolderLocator, UserFolderLocator, caching.ZipCacheLocator)


def compiler(fastmath: set[str]) -> Callable:
    """A decorator that compiles a kernel for float32 arrays, without the GIL, and caches it where that can be done.

    numba has one setting of where its cache lies, for the whole process: it is ours only while we decorate, and never
    where the user has set it.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}

    def decorate(function: Callable) -> Callable:
        before = config.CACHE_LOCATOR_CLASSES
        config.CACHE_LOCATOR_CLASSES = before or ",".join(f"{c.__module__}.{c.__name__}" for c in LOCATORS)
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):  # numba has no class of its own for it
                raise
            warn_of_no_cache()
            return njit(**options)(function)
        finally:
            config.CACHE_LOCATOR_CLASSES = before

    return decorate


@cache
def warn_of_no_cache() -> None:
    """Once for all kernels of a process."""
    log.warning(
        "no folder for compiled kernels can be written: they are compiled anew in every process that uses them, which "
        "takes about 10 s; set NUMBA_CACHE_DIR to a folder that can be written"
    )


def cached_signatures(kernel: Callable) -> list[tuple]:
    """The argument types, as numba names them, for which a kernel's code for this processor is in the cache.

    Reads the index that numba keeps of each kernel, for which it has no function of its own.
    """
    kernel_cache = kernel._cache
    if kernel_cache.cache_path is None:
        return []
    codegen = kernel.targetctx.codegen()
    keys = kernel_cache._cache_file._load_index()
    return [types for types, *rest in keys if (types, *rest) == kernel_cache._index_key(types, codegen)]


def entry(kernel: Callable) -> Callable:
    """A kernel that Python calls and that calls others: what a process runs does not depend on whether it compiled it.

    The process that compiles has each callee also as it was compiled by itself, and runs that one; a process that reads
    the cache has only the callee inside its caller, where LLVM may sum in another order: other last digits.  So a child
    compiles, and every process reads the cache, where there are both.
    """
    compile_here = kernel._compile_for_args

    def compile_for(*arguments, **options):
        if sys.platform == "linux" and kernel._cache.cache_path:
            compile_in_child(kernel, tuple(map(kernel.typeof_pyval, arguments)))
        return compile_here(*arguments, **options)

    kernel._compile_for_args = compile_for
    return kernel


def compile_in_child(kernel: Callable, signature: tuple) -> None:
    """Fill the cache with a kernel's code for such arguments, unless it is there; if that fails the caller notices.

    Of processes that need the same at the same time, as the jobs of a sweep do, one compiles and the others wait.
    """
    if signature in cached_signatures(kernel):
        return
    folder = Path(kernel._cache.cache_path)
    with suppress(OSError):  # a file system without locks, or whoever compiles was stopped: each for itself
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{kernel.__name__}.lock", timeout=PATIENCE, fallback_to_soft=False):
            if signature not in cached_signatures(kernel):
                fork_and_compile(kernel, signature)
        return
    fork_and_compile(kernel, signature)


def fork_and_compile(kernel: Callable, signature: tuple) -> None:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # other threads do not compile
        child = os.fork()
    if child == 0:
        try:
            os.closerange(3, OPEN_FILES)  # a run's lock among them, which must not outlive a run that is killed
            gc.disable()  # a quarter of the time, and the child ends here
            kernel.compile(signature)
        finally:
            os._exit(0)
    with suppress(ChildProcessError):  # where SIGCHLD is ignored nobody is to wait for it
        os.waitpid(child, 0)


# All of fastmath but "nnan" and "ninf": a diverged run must show as NaN or inf in the results.
compiled = compiler({"nsz", "arcp", "contract", "afn", "reassoc"})

# Sums in the order in which they are written.
compiled_in_order = compiler({"contract"})

# Written out where it is called: handing a member's dozens of arrays to a function costs more than a small layer does.
inlined = njit(inline="always")
