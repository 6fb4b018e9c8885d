"""Checkpoints: tensors and plain values in one file, written whole, read back without running code."""

import io
import logging
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from projectlib.errors import UserError
from projectlib.runs.files import write_whole

FORMAT = 1
KEPT = 2  # a torn newest file falls back to the one before
NAME = re.compile(r"epoch-(\d{4,})(?:-step-(\d{8,}))?\.pt")
KEYS = {
    *("epoch", "step", "engine", "schedule", "random"),  # where training is
    *("history", "arrays", "seconds", "steps"),  # what was recorded until then
    *("config", "sizes", "engine_name", "device", "threads"),  # what the run is
}

log = logging.getLogger(__name__)


class TornCheckpoint(UserError):
    """A file that was cut short or damaged: the checkpoint before it may do."""


def checkpoint_path(folder: Path, epoch: int, step: int | None = None) -> Path:
    """``epoch-0003.pt`` after epoch 3, ``epoch-0003-step-00000400.pt`` inside it."""
    inside = "" if step is None else f"-step-{step:08d}"
    return Path(folder) / f"epoch-{epoch:04d}{inside}.pt"


def checkpoint_files(folder: Path) -> list[Path]:
    """All checkpoints of a folder, oldest first."""
    found = {path: NAME.fullmatch(path.name) for path in Path(folder).glob("epoch-*.pt")}
    named = {path: match for path, match in found.items() if match}
    return sorted(named, key=lambda path: tuple(float(part or "inf") for part in named[path].groups()))


def save_checkpoint(folder: Path, content: dict[str, Any]) -> Path:
    """Write a checkpoint, keep the one before it, and delete all others.

    content: all of ``KEYS``, as nested dictionaries, lists, tensors and plain values; epoch and step (None at the
    epoch's end) name the file.  Raises OSError with older ones untouched.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, content["epoch"], content["step"])
    data = io.BytesIO()  # torch's writer, given the file itself, hides a full disk behind an error of its own
    torch.save({"format": FORMAT, **content}, data)
    write_whole(path, lambda file: file.write(data.getbuffer()))
    files = checkpoint_files(folder)
    newest = files.index(path) + 1  # what comes after it was torn, or this run would have gone on from there
    for stale in {*files} - {*files[max(newest - KEPT, 0) : newest]}:
        stale.unlink()
    return path


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of one checkpoint; tensors on ``device``.

    Raises TornCheckpoint for a file that is cut short or damaged, and UserError for one that is missing, of another
    format, or that holds anything but tensors and plain values (nothing in it is run).
    """
    try:
        check_whole(path)
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"checkpoint {path} is refused: it holds more than tensors and plain values, and nothing in it was run; "
            "delete it if you do not know where it is from"
        ) from None
    except Exception as error:  # whatever damaged bytes make torch and zipfile raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TornCheckpoint(f"checkpoint {path} is torn or not a checkpoint ({reason})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"checkpoint {path} has format {found}; expected {FORMAT}, as this version writes it")
    if missing := KEYS - content.keys():
        raise UserError(f"checkpoint {path} lacks {', '.join(sorted(missing))}; expected a checkpoint of a run")
    return content


def check_whole(path: Path) -> None:
    """Raises an error unless the file is an undamaged zip archive: torch.load does not look at checksums."""
    with open(path, "rb") as file:
        if file.read(1) == b"\x80":
            raise pickle.UnpicklingError("a bare pickle")
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"{damaged} is damaged")


def newest_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest checkpoint that is not torn, with a warning for each that is; None where there is none."""
    for path in reversed(checkpoint_files(folder)):
        try:
            return load_checkpoint(path, device)
        except TornCheckpoint as error:
            log.warning("%s: falling back to the one before", error)
    return None


def layout_difference(saved: Any, expected: Any, name: str = "") -> str | None:
    """Where nested dictionaries and lists of tensors differ in names, lengths, shapes or types; None if nowhere."""
    if isinstance(expected, Tensor):
        found = (tuple(saved.shape), saved.dtype) if isinstance(saved, Tensor) else type(saved).__name__
        wanted = (tuple(expected.shape), expected.dtype)
        return None if found == wanted else f"{name} is {found}, expected {wanted}"
    if isinstance(expected, list | tuple):
        saved, expected = (dict(enumerate(x)) if isinstance(x, list | tuple) else x for x in (saved, expected))
    if isinstance(expected, dict):
        if not isinstance(saved, dict) or saved.keys() != expected.keys():
            found = [*saved] if isinstance(saved, dict) else type(saved).__name__
            return f"{name} has {found}, expected {[*expected]}"
        children = (layout_difference(saved[key], expected[key], f"{name}.{key}".strip(".")) for key in expected)
        return next((difference for difference in children if difference), None)
    same = type(saved) is type(expected)
    return None if same else f"{name} is {type(saved).__name__}, expected {type(expected).__name__}"
