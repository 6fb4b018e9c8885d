"""Command lines that fell under ``make attack``: each is refused in one line, at once."""

import os

import pytest

from projectlib.runs import folder as run_folders

HOSTILE = {
    "nested lists": (["rule.gamma=" + "[" * 200 + "]" * 200], "nests deeper than 40 levels"),
    "nested for the parser": (["seed=" + "[" * 3000], "nests deeper than 40 levels"),
    "nested tables": (["+rule.x=" + "{a:" * 200 + "1" + "}" * 200], "nests deeper than 40 levels"),
    "a number of 5000 digits": (["seed=" + "9" * 5000], "5,005 letters"),
    "a number of 2000 digits": (["seed=" + "9" * 2000], "a number of 1000 digits or more"),
    "a list that takes minutes": (
        ["training.log_arrays=[" + "1," * 5000 + "1]"],
        "put what is longer into a config file",
    ),
    "a choice to be left out": (["~optimizer=1"], "optimizer is 1; expected one of adam"),
    "choices to be left out": (["~model=[mlp]"], "model is ['mlp']; expected one of cnn"),
    "moments": (["optimizer.betas=[]"], "optimizer.betas is []"),
    "a seed of the data": (["data=xor", "data.source.seed=../x"], "data.source.seed is '../x'"),
    "a modulator": (["rule.modulator=5"], "rule.modulator is 5"),
    "a modulator without a name": (["++rule.modulator._target_=null"], "_target_"),
    "a log that is no file": (["hydra.job_logging.handlers.file.filename='\x00'"], "expected one of default"),
    "Hydra's own overrides": (["hydra.overrides.task=${seed}"], "hydra.overrides.task"),
    "a number for a word": (["hydra.verbose=-inf"], "is refused by Hydra"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_command_is_refused(script, name):
    words, message = HOSTILE[name]
    ended = script("train-biohsic", "data=digits", *words)
    assert ended.code == 1
    assert message in ended.error
    assert "unforeseen" not in ended.output


def test_a_run_killed_while_it_writes_its_settings_can_be_begun_again(script, tmp_path, monkeypatch):
    """A config without the rest could be neither resumed nor begun again; it is the last of the three."""
    words = ["data=xor", "nmodels=1", "data.limit=20", "data.batchsize=6", "training.nepochs=1", "engine=eager"]
    words += ["hydra.run.dir=run"]
    write_text, written = run_folders.write_text, []

    def killed(path, text):
        written.append(path.name)
        if len(written) == 3:
            raise KeyboardInterrupt
        write_text(path, text)

    monkeypatch.setattr(run_folders, "write_text", killed)
    script("train-biohsic", *words)
    monkeypatch.setattr(run_folders, "write_text", write_text)
    assert sorted(os.listdir(tmp_path / "run" / ".hydra")) == ["hydra.yaml", "overrides.yaml"]
    assert script("train-biohsic", *words).code == 0
    assert len(os.listdir(tmp_path / "run" / ".hydra")) == 3
