"""Where the checkpoints of a run are.  Imports no torch, for those who only look whether there are any."""

import hashlib
from pathlib import Path


def checkpoint_folder(run_folder: Path, path: str) -> Path:
    """The folder of a run's checkpoints.  path: ``checkpointing.path``, inside the run folder unless it is absolute.

    Jobs of a sweep share an absolute path, so each has a folder of its own there, named after its run folder.
    """
    if not Path(path).is_absolute():
        return Path(run_folder) / path
    place = Path(run_folder).resolve()
    return Path(path) / f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:12]}"
