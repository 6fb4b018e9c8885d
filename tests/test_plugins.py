"""Code of a person's own: it runs where the person named it, on every way to a run, and never for a file."""

import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import projectlib
from projectlib.config import plugins
from projectlib.config.plugins import build, find_in_plugins, import_plugins
from projectlib.errors import UserError

TINY = ("nmodels=2", "training.nepochs=1", "data.limit=40", "engine=eager", "device=cpu")
NAMED = ("data=two_points", "rule=halved", "plugins=[my_methods]")

MODULE = """
import torch
import os
from projectlib.data import Dataset, Split
from projectlib.rules import BioHSIC

open("imported", "a").write("x")

class Halved(BioHSIC):
    pass

class _Hidden(BioHSIC):
    pass

def two_points(num_samples):
    x = torch.linspace(-1, 1, num_samples)[:, None].repeat(1, 2)
    split = Split(x, (x[:, 0] > 0).long())
    return Dataset("two_points", split, split, num_classes=2)
"""
RULE = "_target_: my_methods.Halved\ngamma: ${hsic.gamma}\nsigmas: ${hsic.sigmas}\nform: ${hsic.form}\n" + (
    "modulator: ${modulator}\n"
)
DATA = "defaults: [/dataset@_here_]\nname: two_points\nsource: {_target_: my_methods.two_points, num_samples: 50}\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The current folder, with a module of one's own and a folder of its configs; forgotten at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "PLUGINS", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_methods.py").write_text(MODULE)
    for group, name, text in (("rule", "halved", RULE), ("data", "two_points", DATA)):
        (tmp_path / "conf" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(text)
    (tmp_path / "conf" / "mine.yaml").write_text("defaults: [train-biohsic, _self_]\nnmodels: 2\n")
    yield tmp_path
    sys.modules.pop("my_methods", None)


def test_an_installed_plugin_needs_no_name(own, request):
    """As an entry point of a package: it is imported when a config first asks for what the project does not have."""
    metadata = own / "site" / "mine-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[biohsic.plugins]\nmine = my_methods\n")
    sys.path += [str(own), str(own / "site")]
    plugins.installed_plugins.cache_clear()
    request.addfinalizer(plugins.installed_plugins.cache_clear)
    assert find_in_plugins("my_methods.Halved") is sys.modules["my_methods"].Halved
    plugins.require_plugins(["my_methods"], "a run")


def runs(folder, name="train-biohsic"):
    return sorted((folder / "outputs" / name).glob("*/*"))


def test_a_rule_and_a_data_set_from_the_command_line(script, own):
    ended = script("train-biohsic", "--config-dir", "conf", *NAMED, *TINY)
    assert ended.code == 0, ended.output
    (run,) = runs(own)
    # resumed: the plugin is code, and has to be named again
    sys.modules.pop("my_methods")
    plugins.PLUGINS.clear()
    more = (f"resume={run}", "training.nepochs=2")
    assert "add plugins=[my_methods]" in script("train-biohsic", *more).error
    assert script("train-biohsic", *more, "plugins=[my_methods]").code == 0
    assert (run / "metrics.csv").read_text().splitlines()[-1].startswith("2,")
    ended = script("train-biohsic", f"evaluate={run}", "--config-dir=conf", *NAMED)
    assert ended.code == 0, ended.output


def test_a_run_is_loaded_with_plugins_beside_its_configs(script, own, monkeypatch):
    assert script("train-biohsic", "--config-dir=conf", *NAMED, *TINY).code == 0
    (run,) = (path.resolve() for path in runs(own))
    sys.modules.pop("my_methods")
    plugins.PLUGINS.clear()
    (own / "elsewhere").mkdir()
    monkeypatch.chdir(own / "elsewhere")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(own)])
    with pytest.raises(UserError, match="cannot be imported"):
        projectlib.load(run, plugins=["my_methods"])
    assert projectlib.load(run, plugins=["my_methods"], config_dir=own / "conf").ensemble.num_models == 2


def test_sweeps_import_them_too(script, own):
    """In workers that are processes of their own, too: tests/test_examples.py."""
    ended = script("train-biohsic", "--multirun", "--config-dir=conf", *NAMED, *TINY, "seed=1,2")
    assert ended.code == 0, ended.output
    assert len([*(own / "multirun" / "train-biohsic").glob("*/*/*/metrics.csv")]) == 2


@pytest.mark.parametrize("spelling", [["--config-dir", "conf"], ["--config-dir=conf"], ["-cd", "conf"]], ids=" ".join)
def test_a_config_of_ones_own_runs_and_is_resumed(script, own, spelling):
    mine = [*spelling, "--config-name", "mine"]
    settings = ("data=digits", *TINY[1:])
    assert script("train-biohsic", *mine, *settings).code == 0
    (run,) = runs(own, "mine")
    assert (run / "mine.log").is_file()
    assert "nothing to resume" in script("train-biohsic", *mine, f"resume={run}").output
    (run / "summary.json").unlink()
    assert script("train-biohsic", *mine, f"resume={run}", "device=cpu").code == 0
    (run / "summary.json").unlink()
    ended = script("train-biohsic", *mine, *settings, "resume=auto")
    assert ended.code == 0, ended.output
    assert runs(own, "mine") == [run], "a new run was started"
    assert "is a run of mine; expected one of train-biohsic" in script("train-biohsic", f"resume={run}").error


def test_from_python(own):
    with pytest.raises(UserError, match=r"my_methods\.Halved"):
        projectlib.train("train-biohsic", *NAMED[:2], *TINY, config_dir="conf")
    run = projectlib.train("train-biohsic", *NAMED, *TINY, config_dir="conf")
    assert [*run.metrics.columns[:3]] == ["epoch", "split", "model"]
    assert len(run.metrics) == 2 * 2 * 2
    assert (run.folder / "train-biohsic.log").read_text().count("epoch 1") == 1
    assert repr(run).startswith("TrainedRun(")
    logits = run.predict(torch.zeros(3, 2))
    for x in (np.zeros((3, 2)), np.zeros((3, 2), np.float16), torch.zeros(3, 2, dtype=torch.float64)):
        assert torch.equal(run.predict(x), logits)
    with pytest.raises(UserError, match=r"shape \(2,\); expected \(N, 2\)"):
        run.predict(np.zeros(2))
    longer = projectlib.train("train-biohsic", f"resume={run.folder}", "training.nepochs=2", config_dir="conf")
    assert (longer.folder, longer.metrics.epoch.max()) == (run.folder, 2)
    plugins.PLUGINS.clear()
    with pytest.raises(UserError, match=r"add plugins=\[my_methods\]"):
        projectlib.load(run.folder)
    assert torch.equal(
        projectlib.load(run.folder, plugins=["my_methods"]).predict(torch.zeros(3, 2)),
        longer.predict(torch.zeros(3, 2)),
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nmodel=2"], "did you mean nmodels"),
        (["data=nosuch"], "nosuch"),
        (["hsic.gamma=nan"], "hsic.gamma is nan"),
        (["plugins=[nosuch]"], "plugin 'nosuch' cannot be imported"),
        (["plugins=3"], "expected a list of modules"),
        (["resume=/nosuch"], "no run folder"),
        (["evaluate=/nosuch"], "expected no evaluate="),
        (["seed=1,2"], "seed=1,2"),
    ],
)
def test_mistakes_from_python_are_one_line(own, capsys, arguments, part):
    with pytest.raises(UserError) as error:
        projectlib.train("train-biohsic", "data=digits", *TINY, *arguments)
    assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().err == ""
    assert not (own / "outputs").exists()


def test_a_plugin_that_fails_is_told_with_its_line(script, own):
    (own / "my_methods.py").write_text("x = 1\ny = x / 0\n")
    error = script("train-biohsic", "data=digits", *TINY, "plugins=[my_methods]").error
    assert "ZeroDivisionError" in error
    assert "my_methods.py line 2" in error


def test_a_file_imports_nothing(script, own):
    """What is under ``plugins`` in an experiment, in a config or in a run folder is not imported."""
    (own / "conf" / "experiment").mkdir()
    (own / "conf" / "experiment" / "theirs.yaml").write_text("# @package _global_\nplugins: [my_methods]\n")
    (own / "conf" / "theirs.yaml").write_text("defaults: [train-biohsic, _self_]\nplugins: [my_methods]\n")
    for arguments in (["experiment=theirs"], ["--config-name=theirs"]):
        ended = script("train-biohsic", "--config-dir=conf", "data=digits", "rule=halved", *TINY, *arguments)
        assert ended.code == 1
        assert "add plugins=[my_methods] if you trust" in ended.error
    assert not (own / "imported").exists()


@pytest.mark.parametrize(
    "name",
    ["os.system", "os", "_Hidden", "Halved.__init__", "nosuch", "torch.save", "BioHSIC", "__loader__"],
)
def test_only_what_is_public_and_of_the_plugin_can_be_named(own, name):
    import_plugins(["my_methods"], [own])
    assert find_in_plugins("my_methods.Halved") is sys.modules["my_methods"].Halved
    assert find_in_plugins(f"my_methods.{name}") is None
    with pytest.raises(UserError, match="plugins="):
        build(OmegaConf.create({"_target_": f"my_methods.{name}"}))


def test_a_package_names_its_modules(own):
    package = own / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("from my_package.rules import A\n")
    (package / "rules.py").write_text("class A:\n    pass\n")
    (package / "models.py").write_text("def b():\n    return 3\n")
    import_plugins(["my_package"], [own])
    assert find_in_plugins("my_package.A") is find_in_plugins("my_package.rules.A")
    assert build(OmegaConf.create({"_target_": "my_package.models.b"})) == 3
