"""What the numbers were measured on."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def describe() -> dict[str, Any]:
    """Processor, memory, versions and commit; and the load beside us, without which no timing can be trusted."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": platform.platform(),
        "versions": ", ".join([f"python {platform.python_version()}", *map(named_version, ("torch", "numba"))]),
        "commit": commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": f"{os.getloadavg()[0]:.2f} processes were running in the minute before",
    }


def processor() -> str:
    """The CPU's name, from Linux where it is Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def busy_elsewhere() -> float:
    """CPU seconds that others than this process and its ended children have used since the machine started.

    The difference of two calls says whether the machine was quiet in between; 0 where /proc/stat is not there.
    """
    try:
        user, nice, system, _, _, interrupt, soft_interrupt, stolen, *_ = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        )
    except OSError:
        return 0.0
    busy = (user + nice + system + interrupt + soft_interrupt + stolen) / os.sysconf("SC_CLK_TCK")
    return busy - sum(os.times()[:4])


def named_version(package: str) -> str:
    return f"{package} {version(package)}"


def commit() -> str:
    """The commit that runs, and whether files differ from it."""
    try:
        head, changed = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "no git checkout"
    return f"{head}, with changes" if changed else head
