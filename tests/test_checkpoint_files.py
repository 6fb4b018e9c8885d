"""Checkpoints that are torn, edited, of another run or not to be trusted: a good one is found, or the reason told."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_runs import XOR, unfinish

import projectlib
from projectlib.errors import UserError
from projectlib.runs.checkpoint import checkpoint_files, load_checkpoint, write_checkpoint


def test_without_a_complete_checkpoint_a_run_starts_over_in_place(script, tiny_run, tmp_path):
    unfinish(tiny_run)
    wanted = (tiny_run / "metrics.csv").read_bytes()
    for path in checkpoint_files(tiny_run / "checkpoints"):
        path.write_bytes(path.read_bytes()[:100])
    (tiny_run / "checkpoints" / ".epoch-0002.pt.partial").write_bytes(b"stale")
    (tiny_run / ".metrics.csv.partial").write_bytes(b"stale")
    ended = script("train-biohsic", f"resume={tiny_run}")
    assert ended.code == 0
    assert "starting over in place" in ended.output
    assert (tiny_run / "metrics.csv").read_bytes() == wanted
    assert [path.name for path in checkpoint_files(tiny_run / "checkpoints")] == ["epoch-0002.pt", "epoch-0003.pt"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: bytes(len(data)),
        lambda data: data[:-30],
        lambda data: data[:4000] + bytes([data[4000] ^ 1]) + data[4001:],  # inside a tensor: only its checksum tells
    ],
    ids=["empty", "cut", "zeros", "cut at its end", "one bit"],
)
def test_a_torn_checkpoint_falls_back_to_the_one_before(script, tiny_run, damage):
    unfinish(tiny_run)
    wanted = (tiny_run / "metrics.csv").read_bytes()
    newest = tiny_run / "checkpoints" / "epoch-0003.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    ended = script("train-biohsic", f"resume={tiny_run}")
    assert ended.code == 0, ended.output
    assert "falling back to the one before" in ended.output
    assert (tiny_run / "metrics.csv").read_bytes() == wanted
    load_checkpoint(newest)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("archived", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(script, tiny_run, tmp_path, archived):
    unfinish(tiny_run)
    sprung, newest = tmp_path / "sprung", tiny_run / "checkpoints" / "epoch-0003.pt"
    if archived:
        torch.save({**load_checkpoint(newest), "random": Trap(sprung)}, newest)
    else:
        newest.write_bytes(pickle.dumps(Trap(sprung)))
    for arguments in ([f"resume={tiny_run}"], ["data=xor", f"evaluate={tiny_run}"]):
        ended = script("train-biohsic", *arguments)
        assert ended.code == 1
        assert "nothing in it was run" in ended.error
    assert not sprung.exists()


def test_a_checkpoint_of_another_run_is_refused(script, tiny_run, tmp_path):
    unfinish(tiny_run)
    other = tmp_path / "other"
    assert script(*XOR, "model.features=[3]", f"hydra.run.dir={other}").code == 0
    newest = tiny_run / "checkpoints" / "epoch-0003.pt"
    newest.write_bytes((other / "checkpoints" / "epoch-0003.pt").read_bytes())
    error = script("train-biohsic", f"resume={tiny_run}").error
    assert "model.features (now [10, 4], run [3])" in error


@pytest.mark.parametrize("change", ["shape", "name", "missing"])
def test_a_checkpoint_of_another_model_is_refused(script, tiny_run, change):
    unfinish(tiny_run)
    newest = tiny_run / "checkpoints" / "epoch-0003.pt"
    content = load_checkpoint(newest)
    layer = content["engine"]["parameters"][0]
    if change == "shape":
        layer["affine.weight"] = layer["affine.weight"][:, :3]
    elif change == "name":
        layer["other"] = layer.pop("affine.weight")
    else:
        del content["engine"]
    write_checkpoint(newest, content)
    ended = script("train-biohsic", f"resume={tiny_run}")
    assert ended.code == 1
    assert {"shape": "(1, 3, 2)", "name": "other", "missing": "lacks engine"}[change] in ended.error
    with pytest.raises(UserError, match=r"other|lacks|shape"):
        projectlib.load(tiny_run)


def test_edited_metrics_are_refused(script, tiny_run):
    unfinish(tiny_run)
    path = tiny_run / "metrics.csv"
    honest = path.read_text()
    rows = honest.splitlines()
    fields = rows[2].split(",")
    path.write_text("\n".join([*rows[:2], ",".join([*fields[:-1], "0.99"]), *rows[3:]]) + "\n")
    error = script("train-biohsic", f"resume={tiny_run}").error
    assert "metrics.csv" in error
    assert "changed since" in error
    path.write_text(honest[:-40])
    assert "metrics.csv" in script("train-biohsic", f"resume={tiny_run}").error
    path.unlink()
    assert script("train-biohsic", f"resume={tiny_run}").code == 0
    assert path.read_text() == honest


def test_edited_settings_are_refused(script, tiny_run):
    unfinish(tiny_run)
    path = tiny_run / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("lr: 0.0001", "lr: 0.1"))
    assert "optimizer.lr (now 0.1, run 0.0001)" in script("train-biohsic", f"resume={tiny_run}").error
    path.write_text("seed: [")
    assert "config.yaml cannot be read" in script("train-biohsic", f"resume={tiny_run}").error


def test_checkpoints_are_plain_archives(tiny_run):
    newest = checkpoint_files(tiny_run / "checkpoints")[-1]
    assert zipfile.ZipFile(newest).testzip() is None
    content = torch.load(newest, weights_only=True)
    assert content["config"]["data"]["name"] == "xor"
    assert content["history"][-1]["epoch"] == 3
