"""Files that appear whole or not at all, and folders that only one process writes."""

import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from projectlib.errors import UserError

LOOKS = 10  # at a lock that is held, in half a second


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let ``write`` fill a file beside ``path``, flush it to disk and rename it over ``path``.

    A process killed at any moment leaves the old file or the new one.  Raises OSError (disk full, folder not
    writable) with the old file untouched.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.partial")
    try:
        with open(beside, "wb") as file:
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


class FolderLock:
    """Only one process at a time writes a folder: an advisory lock on its ``.lock``, freed when the owner dies.

    Raises UserError, naming the owner, where another process holds it, or where it cannot be written.
    """

    def __init__(self, folder: Path):
        path = Path(folder) / ".lock"
        try:
            self.file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held for as long as the run goes on)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; make the folder writable") from None
        try:
            self.acquire()
        except BlockingIOError:
            self.file.seek(0)
            owner = self.file.read().strip() or "another process"
            self.file.close()
            raise UserError(f"{folder} is being written by {owner}; wait for it or stop it") from None
        except OSError as error:
            self.file.close()
            raise UserError(f"cannot lock {path}: {error.strerror}; move the run to another file system") from None
        self.file.truncate(0)
        self.file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self.file.flush()

    def acquire(self) -> None:
        """Raises BlockingIOError where another process holds it for longer than one that only looks does."""
        for _ in range(LOOKS):
            try:
                return fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
        return fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Let others write; the file stays, and its name of an owner means nothing without the lock."""
        self.file.close()
