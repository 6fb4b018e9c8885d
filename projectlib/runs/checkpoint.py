"""Checkpoints: tensors and plain values in one file, written whole, read back without running code."""

import errno
import hashlib
import io
import logging
import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from projectlib.errors import UserError, one_line
from projectlib.machine import num_cores
from projectlib.runs.files import write_whole
from projectlib.runs.folder import NUMBER, STACKS, TABLE
from projectlib.values import ANYTHING, TEXT, WHOLE, Check, problem

FORMAT = 2
FOLDER = 0x10  # the attribute of an entry that is one
REPEATED = 16  # times that tensors of a file may share its bytes
KEPT = 2  # a torn newest file falls back to the one before
UNREADABLE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE)
"""What is no fault of the file, which may be whole: nothing may take its place."""
NAME = re.compile(r"epoch-(\d{4,18})(?:-step-(\d{8,18}))?\.pt")
SECONDS = Check(lambda v: NUMBER.is_valid(v) and v >= 0, "a number of at least 0")
STACK = Check(lambda v: isinstance(v, list) and is_stack(v), "tensors of one shape and type")
CONTENT = {
    # where training is
    "epoch": WHOLE,
    "step": Check(lambda v: v is None or WHOLE.is_valid(v), "a whole number of at least 0, or None"),
    "engine": TABLE,
    "schedule": TABLE,
    "random": ANYTHING,
    # what was recorded until then
    "history": [{"epoch": WHOLE, "split": TEXT, "model": WHOLE, ...: NUMBER}],
    "arrays": {f"{stack}?": {...: STACK} for stack in STACKS},
    "seconds": {"training": SECONDS, "compile": SECONDS, "wall": SECONDS},
    "steps": WHOLE,
    # what the run is
    "config": TABLE,
    "sizes": TABLE,
    "engine_name": TEXT,
    "device": TEXT,
    "threads": Check(lambda v: WHOLE.is_valid(v) and v > 0, "a whole number of at least 1"),
    ...: ANYTHING,
}

log = logging.getLogger(__name__)


class TornCheckpoint(UserError):
    """A file that was cut short or damaged: the checkpoint before it may do."""


def checkpoint_files(folder: Path) -> list[Path]:
    """All checkpoints of a folder, oldest first."""
    found = {path: NAME.fullmatch(path.name) for path in Path(folder).glob("epoch-*.pt")}
    named = {path: match for path, match in found.items() if match}
    return sorted(named, key=lambda path: tuple(float(part or "inf") for part in named[path].groups()))


def save_checkpoint(folder: Path, content: dict[str, Any]) -> Path:
    """Write a checkpoint, keep the one before it, and delete all others.

    content: as ``CONTENT``, of nested dictionaries, lists, tensors and plain values; epoch and step (None at the
    epoch's end) name the file, ``epoch-0003.pt`` or ``epoch-0003-step-00000400.pt``.  Raises OSError with older ones
    untouched.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    inside = "" if content["step"] is None else f"-step-{content['step']:08d}"
    path = folder / f"epoch-{content['epoch']:04d}{inside}.pt"
    write_checkpoint(path, content)
    files = checkpoint_files(folder)
    newest = files.index(path) + 1  # what comes after it was torn, or this run would have gone on from there
    for stale in {*files} - {*files[max(newest - KEPT, 0) : newest]}:
        stale.unlink()
    return path


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """One file, with the digest of its content."""
    data = io.BytesIO()  # torch's writer, given the file itself, hides a full disk behind an error of its own
    content = tree_map_only(Tensor, Tensor.contiguous, content)
    torch.save({"format": FORMAT, "digest": digest(content), **content}, data)
    write_whole(path, lambda file: file.write(data.getbuffer()))


def digest(content: Any, size: float = math.inf) -> str:
    """SHA-256 of nested dictionaries, lists, tensors and plain values: of all their types, names, shapes and bytes.

    Checksums of an archive protect the bytes of its entries, but not what says where and of what kind these are.
    size: bytes of the file that it was read from.  Raises TypeError for anything else, and unless all values lie in
    memory as they did there: references let a small file stand for endless values, and strides for larger tensors.
    """
    sha, count, amount = hashlib.sha256(), 0, 0

    def add(node: Any) -> None:
        nonlocal count, amount
        count, amount = count + 1, amount + (node.numel() * node.element_size() if isinstance(node, Tensor) else 0)
        if count > size or amount > REPEATED * size:
            raise TypeError("it has more values than bytes")
        if isinstance(node, Tensor):
            dense = node.layout == torch.strided and not node.is_quantized and node.device.type != "meta"
            if not dense or not node.is_contiguous():
                raise TypeError(f"a tensor {tuple(node.shape)} is not contiguous")
            sha.update(f"{node.dtype}{tuple(node.shape)}".encode())
            sha.update(node.detach().cpu().flatten().view(torch.uint8).numpy().data)
        elif isinstance(node, dict | list | tuple):
            sha.update(f"{'dict' if isinstance(node, dict) else 'list'}{len(node)}".encode())
            for item in node.items() if isinstance(node, dict) else node:
                add(item)
        elif node is None or isinstance(node, bool | int | float | str):
            text = repr(node).encode(errors="surrogatepass")
            sha.update(f"{type(node).__name__}{len(text)}:".encode() + text)
        else:
            raise TypeError(f"a checkpoint holds {type(node).__name__}; expected tensors and plain values")

    add(content)
    return sha.hexdigest()


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
        if isinstance(error, PermissionError | MemoryError) or getattr(error, "errno", None) in UNREADABLE:
            reason = f"{type(error).__name__}: {one_line(error):.200}"
            raise UserError(f"checkpoint {path} cannot be read ({reason})") from None
        raise TornCheckpoint(f"checkpoint {path} is torn or not a checkpoint ({one_line(error):.200})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"checkpoint {path} has format {found!r:.50}; expected {FORMAT}, as this version writes it")
    del content["format"]
    try:
        damaged = content.pop("digest", None) != digest(content, Path(path).stat().st_size)
    except (TypeError, RuntimeError) as error:  # also what nests deeper than Python does
        raise UserError(f"checkpoint {path} is refused: {error}") from None
    if damaged:
        raise TornCheckpoint(f"checkpoint {path} is damaged: its content is not what its digest says")
    difference = problem(content, CONTENT)
    if not difference and (late := [row["epoch"] for row in content["history"] if row["epoch"] > content["epoch"]]):
        difference = f"history has rows of epoch {late[0]}, expected none after epoch {content['epoch']}"
    if difference:
        raise UserError(f"checkpoint {path} is not what a run writes: {difference}")
    return content


def is_stack(items: list[Any]) -> bool:
    """Whether these are tensors of one shape and type."""
    return all(isinstance(item, Tensor) for item in items) and len({(item.shape, item.dtype) for item in items}) == 1


def restored_threads(content: dict[str, Any]) -> int:
    """The threads that a resumed run has: as many as it had, and no more than this process has cores."""
    available = num_cores()
    if content["threads"] > available:
        log.warning(
            "the run had %d threads; resumed with %d, as many cores as there are", content["threads"], available
        )
    return min(content["threads"], available)


def check_whole(path: Path) -> None:
    """Raises an error unless the file is an undamaged zip archive: torch.load does not look at checksums."""
    if path.exists() and not path.is_file():
        raise zipfile.BadZipFile("it is no file")
    with open(path, "rb") as file:
        if file.read(1) == b"\x80":
            raise pickle.UnpicklingError("a bare pickle")
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise zipfile.BadZipFile("it is compressed, as no checkpoint is")
        if any(entry.external_attr & FOLDER for entry in archive.infolist()):
            raise zipfile.BadZipFile("it has folders, which torch reads as empty files")
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
