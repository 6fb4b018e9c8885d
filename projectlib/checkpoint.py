"""Checkpoints: tensors and plain values in one file, written whole, read back without running code."""

import pickle
import re
from pathlib import Path

import torch

from projectlib.errors import UserError
from projectlib.files import write_whole

FORMAT = 1
KEPT = 2  # a torn newest file falls back to the one before


def checkpoint_path(folder: Path, epoch: int) -> Path:
    return Path(folder) / f"epoch-{epoch:04d}.pt"


def checkpoint_files(folder: Path) -> list[Path]:
    """All checkpoints of a folder, oldest first."""
    return sorted(path for path in Path(folder).glob("epoch-*.pt") if re.fullmatch(r"epoch-\d{4,}\.pt", path.name))


def save_checkpoint(folder: Path, epoch: int, content: dict) -> Path:
    """Write ``epoch-NNNN.pt`` and delete all but the newest two.

    content: nested dictionaries, lists, tensors and plain values.  Raises OSError with older ones untouched.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, epoch)
    write_whole(path, lambda file: torch.save({"format": FORMAT, **content}, file))
    for old in checkpoint_files(folder)[:-KEPT]:
        old.unlink()
    return path


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict:
    """The content of one checkpoint; tensors on ``device``.

    Raises UserError for a file that is missing, torn, of another format, or that holds anything but tensors and
    plain values (nothing in it is run).
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist") from None
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"checkpoint {path} is refused: {reason} Nothing in it was run.") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"checkpoint {path} is torn or not a checkpoint ({reason})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"checkpoint {path} has format {found}; expected {FORMAT}")
    return content
