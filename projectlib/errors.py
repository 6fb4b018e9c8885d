"""The exceptions that are a user's to read, and the two that are no mistakes."""

import errno

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What the system refuses for want of room, or of permission."""

EXIT_RESUME = 75  # "temporary failure" of sysexits.h: start it again with resume=<run folder>


class UserError(Exception):
    """A mistake in the input: names the value, what was expected and what to do.

    Entry scripts print its one line and exit with code 1, without a traceback.
    """


class Diverged(UserError):
    """Numbers that are no longer finite: the settings are at fault, not the config that holds them."""


class Interrupted(Exception):
    """A run stopped after a checkpoint because a signal asked for it."""


class Pruned(Exception):
    """A search gave up a run that does worse than others did."""


def system_problem(error: OSError, place: object) -> str:
    """What the system refused, of which file, and what helps.  place: what it is about where it names no file."""
    readable = "; make it readable and writable" if error.errno in CLOSED else ""
    advice = "; make room" if error.errno in FULL else readable
    return f"{error.filename or place}: {error.strerror or one_line(error)}{advice}"


def not_installed(setting: str, package: str) -> str:
    """What to do where a setting needs a package that an installation need not have."""
    return f"{setting} needs the package {package}, which is not installed: pip install {package}"


def one_line(error: BaseException) -> str:
    """What an error says, on one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
