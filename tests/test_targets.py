"""A config builds what is on a short list, and nothing else: not nested, not interpolated, not in Hydra's own part."""

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from projectlib.config.plugins import TARGETS, build, register
from projectlib.errors import UserError

TINY = ("data=xor", "nmodels=1", "training.nepochs=1", "data.limit=20", "data.batchsize=4", "engine=eager")
TOUCH = "{_target_:pathlib.Path.touch,self:{_target_:pathlib.Path,_args_:[sprung]}}"


@pytest.mark.parametrize(
    "overrides",
    [
        ["model._target_=os.system", "+model.command='touch sprung'"],
        ["rule._target_=subprocess.check_call", "+rule.args=[touch,sprung]"],
        ["logger._target_=torch.hub.load", "+logger.repo_or_dir=.", "+logger.source=local", "+logger.model=trap"],
        ["lr_schedule._target_=builtins.exec"],
        ["optimizer._target_=projectlib.runs.files.write_text", "+optimizer.path=sprung"],
        [f"+model.x={TOUCH}"],
        [f"+model.x=[[{TOUCH}]]"],
        [f"+model.y={TOUCH}", "+model.x=${model.y}"],
        ["+model.y=pathlib.Path.touch", "+model.x={_target_:'${model.y}'}"],
        ["+model.x='${oc.decode:\"{_target_: pathlib.Path.touch}\"}'"],
        ["data.source._target_=os.system", "+data.source.command='touch sprung'"],
        ["+hydra.callbacks.x={_target_:os.system,command:'touch sprung'}"],
        ["+hydra.callbacks.x={_target_:torch.hub.load,repo_or_dir:.,source:local,model:trap}"],
        ["+other={_target_:torch.hub.load,repo_or_dir:.,source:local,model:trap}", "+hydra.callbacks.x=${other}"],
        ["+hydra.job_logging.handlers.x={class:torch.hub.load,repo_or_dir:.,source:local,model:trap}"],
        ["+hydra.job_logging.handlers.x.class='${oc.env:TRAP,logging.StreamHandler}'"],
        [
            "+hydra.job.env_set.TRAP=os.mkdir",
            "+hydra.job_logging.handlers.x={class:'${hydra:job.env_set.TRAP}',path:sprung}",
        ],
        ["+hydra.job_logging.handlers.x='${oc.decode:\"{class: os.mkdir}\"}'"],
    ],
    ids=lambda value: value[0],
)
def test_code_named_by_a_config_is_not_run(script, tmp_path, overrides):
    (tmp_path / "hubconf.py").write_text("import pathlib\npathlib.Path('sprung').touch()\ndef trap(): pass\n")
    ended = script("train-biohsic", *TINY, *overrides)
    assert ended.code == 1
    assert "expected a registered name" in ended.error or "expected it to be written out" in ended.error
    assert not (tmp_path / "sprung").exists()


def test_a_config_file_from_somebody_else_runs_nothing(script, tmp_path):
    (tmp_path / "hubconf.py").write_text("import pathlib\npathlib.Path('sprung').touch()\ndef trap(): pass\n")
    theirs = tmp_path / "theirs" / "experiment"
    theirs.mkdir(parents=True)
    trap = "{_target_: torch.hub.load, repo_or_dir: ., source: local, model: trap}"
    (theirs / "evil.yaml").write_text(f"# @package _global_\nhydra:\n  callbacks:\n    x: {trap}\n")
    for mode in ([], ["--multirun"]):
        ended = script("train-biohsic", *mode, *TINY, "experiment=evil", f"hydra.searchpath=[file://{theirs.parent}]")
        assert ended.code == 1
        assert "torch.hub.load" in ended.error
    assert not (tmp_path / "sprung").exists()


def test_a_run_folder_from_somebody_else_runs_nothing(script, tmp_path):
    run = tmp_path / "run"
    assert script("train-biohsic", *TINY, f"hydra.run.dir={run}").code == 0
    (run / "summary.json").unlink()
    overrides = run / ".hydra" / "overrides.yaml"
    honest = overrides.read_text()
    overrides.write_text(honest + "- +hydra.callbacks.x={_target_:os.system,command:'touch sprung'}\n- --info=all\n")
    assert script("train-biohsic", f"resume={run}").code == 0
    overrides.write_text(honest)
    config = run / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("projectlib.runs.loggers.PrintLogger", "os.system"))
    (run / "summary.json").unlink()
    ended = script("train-biohsic", f"resume={run}", f"hydra.run.dir={ROOT}")
    assert ended.code == 0  # a logger may be changed, and comes from the command line again
    config.write_text(config.read_text().replace("projectlib.rules.BioHSIC", "os.system"))
    (run / "summary.json").unlink()
    assert script("train-biohsic", f"resume={run}").code == 1
    assert not (tmp_path / "sprung").exists()


def test_an_escaped_interpolation_stays_a_text():
    """Resolved once when it is checked, it must not be resolved again when it is built."""
    register(dict_of)
    node = OmegaConf.create({"_target_": f"{__name__}.dict_of", "x": r"\${oc.decode:'{_target_: os.getcwd}'}"})
    assert build(node) == {"x": "${oc.decode:'{_target_: os.getcwd}'}"}
    TARGETS.discard(f"{__name__}.dict_of")


def dict_of(**arguments):
    return arguments


def test_a_class_of_ones_own_is_registered_in_code():
    node = OmegaConf.create({"_target_": f"{__name__}.dict_of", "inner": [{"_target_": f"{__name__}.dict_of", "a": 1}]})
    with pytest.raises(UserError, match="dict_of"):
        build(node)
    register(dict_of)
    try:
        assert build(node, b=2) == {"inner": [{"a": 1}], "b": 2}
    finally:
        TARGETS.discard(f"{__name__}.dict_of")
