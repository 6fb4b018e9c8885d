"""Checkpoints of a stranger: each is refused in one line, or falls back to the one before; none reaches a kernel."""

import errno
import math
import zipfile

import pytest
import torch
from tiny_runs import unfinish

from projectlib.engines.optimizers import load_optimizer
from projectlib.errors import UserError
from projectlib.runs.checkpoint import (
    FORMAT,
    TornCheckpoint,
    checkpoint_files,
    digest,
    load_checkpoint,
    restored_threads,
    write_checkpoint,
)


def newest(folder):
    return folder / "checkpoints" / "epoch-0002.pt"


def rewritten(folder, change):
    """Let ``change`` spoil the newest checkpoint, which gets a digest of what it then is."""
    content = load_checkpoint(newest(folder))
    change(content)
    write_checkpoint(newest(folder), content)
    unfinish(folder)


def with_row(**values):
    def change(content):
        content["history"][-1] = {"epoch": 0, "split": "test", "model": 0, **values}

    return change


CONTENT = {
    "threads": (lambda c: c.update(threads=0), "threads is 0"),
    "threads of another type": (lambda c: c.update(threads=1.0), "threads is 1.0"),
    "epoch": (lambda c: c.update(epoch=-1), "epoch is -1"),
    "epoch of another type": (lambda c: c.update(epoch=True), "epoch is True"),
    "step": (lambda c: c.update(step=-5), "step is -5"),
    "a step beyond the epoch": (lambda c: c.update(step=10**6), "step is 1000000 of"),
    "seconds": (lambda c: c["seconds"].update(wall=math.nan), "seconds.wall is nan"),
    "history": (lambda c: c.update(history=[1, 2]), "history.0 is int"),
    "history of later epochs": (with_row(epoch=7), "history has rows of epoch 7"),
    "history that is not finite": (with_row(loss=math.inf), ".loss is inf"),
    "history of text": (with_row(loss="=cmd"), ".loss is '=cmd'"),
    "arrays elsewhere": (lambda c: c["arrays"].update({"../../up": {}}), "arrays has '../../up'"),
    "arrays of two shapes": (
        lambda c: c["arrays"].update(arrays={"a": [torch.zeros(2), torch.zeros(3)]}),
        "arrays.arrays.a is",
    ),
    "engine": (lambda c: c.update(engine=[1]), "engine is list"),
    "schedule": (lambda c: c["schedule"].update(step="mine"), "schedule has"),
    "a value of the schedule": (lambda c: c["schedule"].update(total_iters=torch.zeros(3)), "schedule.total_iters is"),
    "random numbers": (lambda c: c.update(random=torch.zeros(3)), "of another model"),
    "a layer's shape": (lambda c: c["engine"]["parameters"][0].update({"affine.weight": torch.zeros(1)}), "(1,)"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_content_that_no_run_writes_is_refused(script, run_folder, name):
    change, message = CONTENT[name]
    rewritten(run_folder, change)
    before = (run_folder / "metrics.csv").read_bytes()
    ended = script("train-biohsic", f"resume={run_folder}", "training.nepochs=3")
    assert ended.code == 1
    assert message in ended.error
    assert "Traceback" not in ended.output
    assert (run_folder / "metrics.csv").read_bytes() == before


MOMENTS = {
    "broadcast": lambda state: state.update(exp_avg=torch.zeros(1, 1, 1)),
    "type": lambda state: state.update(exp_avg_sq=state["exp_avg_sq"].double()),
    "strided": lambda state: state.update(exp_avg=torch.zeros(2, 4, 3).mT),
    "missing": lambda state: state.pop("exp_avg"),
    "none": lambda state: state.update(exp_avg=None),
    "count": lambda state: state.update(step=torch.tensor(math.nan)),
    "negative count": lambda state: state.update(step=torch.tensor(-3.0)),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_moments_of_another_kind_never_reach_a_kernel(name):
    weight = torch.ones(2, 3, 4, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    saved = optimizer.state_dict()
    load_optimizer(torch.optim.AdamW([weight], fused=True), saved)
    MOMENTS[name](saved["state"][0])
    with pytest.raises(ValueError, match="its optimizer has for parameter 0"):
        load_optimizer(torch.optim.AdamW([weight], fused=True), saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved["param_groups"][0].update(lr=math.nan),
        lambda saved: saved["param_groups"][0].update(params=[5]),
        lambda saved: saved["state"].update({7: {}}),
        lambda saved: saved.update(param_groups=[]),
        lambda saved: saved.pop("state"),
    ],
)
def test_groups_of_another_optimizer_are_refused(change):
    weight = torch.ones(2, requires_grad=True)
    saved = torch.optim.SGD([weight], momentum=0.9).state_dict()
    change(saved)
    with pytest.raises(ValueError, match="its optimizer has"):
        load_optimizer(torch.optim.SGD([weight], momentum=0.9), saved)


def test_moments_of_some_parameters_only_are_refused():
    """But for a layer that never learns: torch's fused SGD fails on momentum that one of its parameters lacks."""
    weights = [torch.ones(2, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD(weights, momentum=0.9, lr=0.1, fused=True)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    saved = optimizer.state_dict()
    load_optimizer(torch.optim.SGD(weights, momentum=0.9, lr=0.1, fused=True), saved)
    adam = torch.optim.AdamW(weights, fused=True)
    weights[1].grad = None  # a rule leaves its layer alone
    adam.step()
    load_optimizer(torch.optim.AdamW(weights, fused=True), adam.state_dict())
    del saved["state"][1]
    with pytest.raises(ValueError, match="the state of 1 parameters, expected none or those of all 2"):
        load_optimizer(torch.optim.SGD(weights, momentum=0.9, lr=0.1, fused=True), saved)


def test_a_resumed_run_with_spoilt_moments_ends_in_one_line(script, run_folder):
    rewritten(run_folder, lambda c: c["engine"]["optimizer"]["state"][0].update(exp_avg=torch.zeros(1, 1, 1)))
    ended = script("train-biohsic", f"resume={run_folder}", "training.nepochs=3")
    assert ended.code == 1
    assert "exp_avg ((1, 1, 1), torch.float32)" in ended.error


def test_no_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert restored_threads({"threads": 1_000_000}) == 4
    assert restored_threads({"threads": 3}) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # a cluster's share of the machine
    assert restored_threads({"threads": 3}) == 2


def test_the_directory_attribute_of_an_entry_changes_no_weight(run_folder):
    """One bit of the archive's index makes a tensor's entry a folder, which is read as zeros; no checksum covers it."""
    path, wanted = newest(run_folder), load_checkpoint(newest(run_folder))
    data = path.read_bytes()
    places = [place for place in range(len(data)) if data.startswith(b"PK\x01\x02", place)]
    for place in places:
        path.write_bytes(data[: place + 38] + bytes([data[place + 38] ^ 0x10]) + data[place + 39 :])
        try:
            found = load_checkpoint(path)
        except TornCheckpoint:
            continue
        assert digest(found) == digest(wanted)


def test_every_value_has_a_part_in_the_digest():
    content = {"a": [1, 2.0, None, True, "x"], "b": torch.arange(4.0)}
    changes = [
        {**content, "a": [1, 2, None, True, "x"]},
        {**content, "a": [1, 2.0, None, 1, "x"]},
        {**content, "a": [1, 2.0, None, True], "x": 0},
        {**content, "b": torch.arange(4.0).reshape(2, 2)},
        {**content, "b": torch.arange(4.0, dtype=torch.float64)},
        {**content, "b": torch.tensor([0, 1, 2, 3.0000002])},
        {"b": content["b"], "a": content["a"]},
    ]
    assert len({digest(content), *map(digest, changes)}) == 1 + len(changes)


def circle():
    nodes = []
    nodes.append(nodes)
    return nodes


def bomb():
    nodes = ["x"]
    for _ in range(60):
        nodes = [nodes, nodes]
    return nodes


@pytest.mark.parametrize(
    "value",
    [circle, bomb, lambda: torch.zeros(1).expand(10**12), lambda: torch.zeros(3).to_sparse()],
    ids=["circle", "bomb", "expanded", "sparse"],
)
def test_small_files_that_stand_for_much_are_refused(tmp_path, value):
    path = tmp_path / "epoch-0001.pt"
    torch.save({"format": FORMAT, "digest": "", "engine": value()}, path)
    with pytest.raises(UserError, match="is refused"):
        load_checkpoint(path)


@pytest.mark.parametrize("error", [PermissionError("not yours"), OSError(errno.EIO, "a disk"), MemoryError()])
def test_a_checkpoint_that_cannot_be_read_now_is_not_torn(script, run_folder, monkeypatch, error):
    """A whole file that a system refuses for now must neither be passed over nor deleted."""
    unfinish(run_folder)
    before = {path: path.read_bytes() for path in checkpoint_files(run_folder / "checkpoints")}

    def refuse(*arguments, **keywords):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", refuse)
        ended = script("train-biohsic", f"resume={run_folder}")
    assert ended.code == 1
    assert "cannot be read" in ended.error
    assert {path: path.read_bytes() for path in checkpoint_files(run_folder / "checkpoints")} == before


def test_compressed_checkpoints_are_refused(run_folder):
    path = newest(run_folder)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(TornCheckpoint, match="compressed"):
        load_checkpoint(path)


def test_an_earlier_format_is_refused(run_folder):
    path = newest(run_folder)
    torch.save({**load_checkpoint(path), "format": 1}, path)
    with pytest.raises(UserError, match=f"format 1; expected {FORMAT}"):
        load_checkpoint(path)
