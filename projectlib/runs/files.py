"""Files that appear whole or not at all, and folders that only one process writes."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from projectlib.errors import UserError

LOCK, OWNER = ".lock", ".owner"
PATIENCE = 0.5  # seconds to wait: ``is_locked`` in another process holds the lock for a moment


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file beside ``path``, flush it to disk and rename it over ``path``.

    A process killed at any moment leaves the old file or the new one.  Raises OSError (disk full, folder not
    writable) with the old file untouched.
    """
    path = Path(path)
    beside = path.parent / f".{path.name}.partial"
    beside.unlink(missing_ok=True)
    try:
        with open(beside, "xb") as file:  # never through a link, to a file of somebody else, or into a pipe
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """``write_whole`` of a text in UTF-8."""
    write_whole(path, lambda file: file.write(text.encode()))


def remove_partial_files(*folders: Path) -> None:
    """Delete what writers that were killed have left in folders that nobody else writes."""
    for folder in folders:
        for path in Path(folder).glob(".*.partial"):
            if not path.is_dir() or path.is_symlink():
                path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process at a time writes a folder: a lock on its ``.lock``, freed when the owner dies.

    ``.owner`` says who that is.  Raises UserError, naming the owner, where another process holds the lock, or where it
    cannot be written.
    """
    owner, lock = Path(folder) / OWNER, FileLock(Path(folder) / LOCK, fallback_to_soft=False)
    try:
        held = lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise UserError(f"{folder} is being written by {owner_of(folder)}; wait for it or stop it") from None
    except OSError as error:
        raise UserError(
            f"cannot lock {lock.lock_file}: {error.strerror}; make the folder writable, or move the run to another "
            "file system"
        ) from None
    with held:  # .lock stays: to delete it would let two processes lock two files of its name
        try:
            owner.unlink(missing_ok=True)
            with open(owner, "x", encoding="utf-8") as file:  # as in write_whole
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
        except OSError as error:
            raise UserError(f"cannot write {owner}: {error.strerror}; make the folder writable") from None
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)


def owner_of(folder: Path) -> str:
    """Who wrote a folder last, as it said itself."""
    try:
        return (Path(folder) / OWNER).read_text(encoding="utf-8", errors="replace").strip() or "another process"
    except OSError:
        return "another process"


def is_locked(folder: Path) -> bool:
    """Whether a process writes a folder.

    Where the lock may not be looked at (a folder of somebody else) a file that names an owner is believed.
    """
    folder = Path(folder)
    if not ((folder / OWNER).is_file() and (folder / LOCK).is_file()):
        return False
    try:
        with FileLock(folder / LOCK, timeout=0.02, poll_interval=0.005, fallback_to_soft=False):
            return False
    except (Timeout, PermissionError):
        return True
    except OSError:
        return False
