"""A config builds what is on a short list, and nothing else: not nested, not interpolated, not in Hydra's own part."""

import os
import re
import shutil

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

import projectlib
from projectlib.config.plugins import build
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
    assert re.search("expected (a name|none|an installed plugin|one of default)", ended.error)
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
        assert "hydra.callbacks is" in ended.error
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
    for change in ([], [f"hydra.run.dir={ROOT}"]):
        assert "os.system" in script("train-biohsic", f"resume={run}", *change).error
    assert script("train-biohsic", f"resume={run}", "logger=print").code == 0  # overridden, in place of the folder's
    config.write_text(config.read_text().replace("projectlib.rules.BioHSIC", "os.system"))
    (run / "summary.json").unlink()
    assert script("train-biohsic", f"resume={run}").code == 1
    assert not (tmp_path / "sprung").exists()


def test_a_run_folder_from_somebody_else_writes_nowhere_else(script, tmp_path, monkeypatch):
    run, place = tmp_path / "run", tmp_path / "sprung"
    assert script("train-biohsic", *TINY, f"hydra.run.dir={run}").code == 0
    (run / "summary.json").unlink()
    config = run / ".hydra" / "config.yaml"
    honest = config.read_text()
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("~/sprung", place):
        config.write_text(honest.replace("path: checkpoints", f"path: {path}"))
        assert "checkpointing.path" in script("train-biohsic", f"resume={run}").error
        assert not place.exists()
    assert script("train-biohsic", f"resume={run}", f"checkpointing.path={place}").code == 0  # the person names it
    logger = f"_target_: projectlib.runs.loggers.TensorBoardLogger\n    folder: {place}/log\n    settings: {{}}"
    config.write_text(honest.replace("model:\n", f"model:\n  x:\n    {logger}\n"))
    with pytest.raises(UserError, match="expected a logger under logger= alone"):
        projectlib.load(run)
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints")
    assert "expected a logger under logger= alone" in script("train-biohsic", f"resume={run}").error
    assert not (place / "log").exists()


def test_a_group_in_a_run_folder_leads_nowhere(script, tmp_path, monkeypatch):
    """Its choices and overrides may name files of its own, which set PATH, or have logging import a module."""
    run = tmp_path / "outputs" / "F"
    assert script("train-biohsic", *TINY, f"hydra.run.dir={run}").code == 0
    (run / "git").write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    (run / "git").chmod(0o755)
    (run / "evil.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nx = None\n")
    way_out = "../" * 20 + str(run)[1:] + "/evil"
    evil = (
        f"env_set: {{PATH: {run}}}\n  job_logging:\n    handlers: {{console: {{stream: 'ext://outputs.F.evil.x'}}}}\n"
    )
    (run / "evil.yaml").write_text(f"# @package _global_\nhydra:\n  job:\n    {evil}")
    overrides, hydra = run / ".hydra" / "overrides.yaml", run / ".hydra" / "hydra.yaml"
    overrides.write_text(overrides.read_text() + f"- experiment={way_out}\n- +model={way_out}\n")
    honest = hydra.read_text()
    for group in ("experiment", "logger", "model", "rule"):
        hydra.write_text(re.sub(rf"(      {group}): .*", rf"\1: {way_out}", honest))
        (run / "summary.json").unlink()
        assert script("train-biohsic", f"resume={run}").code == 0
    assert not (tmp_path / "sprung").exists()


TRAP = "{_target_: torch.hub.load, repo_or_dir: ., source: local, model: trap}"
SOURCE = "hydra._internal.core_plugins.structured_config_source.StructuredConfigSource"
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
CREATED = f"${{oc.create:{{_target_:{BASIC},_recursive_:true,x:{{_target_:pathlib.Path,_args_:[sprung]}}}}}}"
VARIANTS = f"variants: {{a: {{_target_: {BASIC}, _recursive_: true}}, False: {{_target_: {BASIC}, x: {TRAP}}}}}"
EVIL = {
    "a variable": "hydra: {job: {env_set: {PATH: /tmp}}}",
    "a variable, as if overridden": "hydra: {overrides: {hydra: [hydra.job.env_set]}, job: {env_set: {PATH: /tmp}}}",
    "a variable later": "hydra: {job: {env_set: '${hydra.runtime.choices}'}}",
    "a variable of jobs": "hydra: {sweeper: {params: {+hydra.job.env_set.PATH: /tmp}}}",
    "a name": "hydra: {job: {name: ../../sprung}}",
    "a folder of settings": "hydra: {output_subdir: ../sprung}",
    "a stream": "hydra: {job_logging: {handlers: {console: {stream: 'ext://evil.x'}}}}",
    "a handler of another": "hydra: {job_logging: {handlers: {console: {stream: 'cfg://handlers.file'}}}}",
    "a log elsewhere": "hydra: {job_logging: {handlers: {file: {filename: ../../sprung}}}}",
    "a log beside": "hydra: {job_logging: {handlers: {file: {filename: '${hydra.runtime.output_dir}/../sprung.log'}}}}",
    "commands": "hydra: {launcher: {setup: [touch sprung]}}",
    "a line more": 'hydra: {launcher: {comment: "x\\ntouch sprung"}}',
    "a line more, elsewhere": 'mine: "x\\ntouch sprung"\nhydra: {launcher: {comment: "${mine}"}}',
    "parameters": "hydra: {launcher: {additional_parameters: {wrap: touch sprung}}}",
}
LAUNCHERS = {
    "a source of configs": f"launcher: {{_target_: {SOURCE}, provider: x, path: 'structured://evil'}}",
    "a target below": f"launcher: {{_target_: {BASIC}, x: {TRAP}}}",
    "what is created": f'launcher: "{CREATED}"',
    "what changes": 'launcher: "${variants.${oc.select:hydra.sweeper._recursive_,a}}"',
}


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
def test_an_experiment_of_somebody_else_sets_nothing_outside(script, tmp_path, evil):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{evil}\n")
    slurm = ["hydra/launcher=submitit_slurm"] if "launcher" in evil else []
    before = dict(os.environ)
    ended = script("train-biohsic", "--config-dir=conf", *TINY, *slurm, "experiment=evil", "hydra.run.dir=run")
    assert ended.code == 1
    assert re.search(r"hydra\.[\w.]+ (is|has) .*expected", ended.error)
    assert "launcher" in ended.error or not slurm
    assert dict(os.environ) == before
    assert not [*tmp_path.rglob("*sprung*"), *(path for up in tmp_path.parents[:2] for path in up.glob("*sprung*"))]


def test_a_file_of_somebody_else_makes_no_sweep_of_a_run(command, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "evil.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
    ended = command("train-biohsic", "--config-dir=conf", *TINY, "experiment=evil", "hydra.run.dir=run")
    assert ended.code == 0, ended.output
    assert (tmp_path / "run" / "metrics.csv").exists()
    assert not (tmp_path / "multirun").exists()


@pytest.mark.parametrize("evil", LAUNCHERS.values(), ids=LAUNCHERS)
def test_a_launcher_of_somebody_else_is_not_built(script, tmp_path, evil):
    (tmp_path / "hubconf.py").write_text("import pathlib\npathlib.Path('sprung').touch()\ndef trap(): pass\n")
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path('sprung').touch()\n")
    for group, text in (
        ("hydra/launcher", f"# @package hydra\n{evil}\n"),
        ("experiment", f"# @package _global_\ndefaults:\n  - override /hydra/launcher: theirs\n{VARIANTS}\n"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "theirs.yaml").write_text(text)
    ended = script("train-biohsic", "--config-dir=conf", "--multirun", *TINY, "experiment=theirs")
    assert ended.code == 1
    assert "hydra.launcher is" in ended.error
    assert not (tmp_path / "sprung").exists()


def test_a_config_of_somebody_else_names_no_module_as_a_place_of_configs(script, tmp_path):
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path('sprung').touch()\n")
    (tmp_path / "conf").mkdir()
    text = "defaults: [train-biohsic]\nhydra: {searchpath: ['structured://evil']}\n"
    (tmp_path / "conf" / "theirs.yaml").write_text(text)
    ended = script("train-biohsic", "--config-dir=conf", "--config-name=theirs", *TINY)
    assert ended.code == 1
    assert "hydra.searchpath has" in ended.error
    assert not (tmp_path / "sprung").exists()


def test_help_with_hydra_needs_no_config(script):
    ended = script("train-biohsic", "--hydra-help")
    assert ended.code == 0, ended.output
    assert "--multirun" in ended.output


def test_the_person_has_a_scheduler_run_commands(script):
    setup = "hydra.launcher.setup=['module load cuda']"
    ended = script("train-biohsic", *TINY, "hydra/launcher=submitit_slurm", setup, "hydra.run.dir=run")
    assert ended.code == 0, ended.output


def test_the_environment_is_not_read_for_a_run_folder(script, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hush")
    run = tmp_path / "run"
    assert script("train-biohsic", *TINY, f"hydra.run.dir={run}").code == 0
    (run / "summary.json").unlink()
    config = run / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("name: xor", "name: ${oc.env:SECRET}"))
    for change in ([], ["data.name=xor"], ["data.limit=3"]):
        ended = script("train-biohsic", f"resume={run}", *change)
        assert ended.code == 1
        assert "${oc.env:SECRET}" in ended.error or "data.limit" in ended.error
        assert "hush" not in ended.output
    with pytest.raises(UserError, match=r"data\.name"):
        projectlib.load(run)


def test_what_the_person_reads_from_the_environment_is_written_out(script, tmp_path, monkeypatch):
    monkeypatch.setenv("NAME", "mine")
    run = tmp_path / "run"
    assert script("train-biohsic", *TINY, "data.name='${oc.env:NAME}'", f"hydra.run.dir={run}").code == 0
    assert "name: mine\n" in (run / ".hydra" / "config.yaml").read_text()


def test_an_escaped_interpolation_stays_a_text(monkeypatch):
    """Resolved once when it is checked, it must not be resolved again when it is built."""
    monkeypatch.setattr("projectlib.config.plugins.PLUGINS", {__name__})
    node = OmegaConf.create({"_target_": f"{__name__}.dict_of", "x": r"\${oc.decode:'{_target_: os.getcwd}'}"})
    assert build(node) == {"x": "${oc.decode:'{_target_: os.getcwd}'}"}


def dict_of(**arguments):
    return arguments


def test_targets_of_a_plugin_may_be_nested(monkeypatch):
    node = OmegaConf.create({"_target_": f"{__name__}.dict_of", "inner": [{"_target_": f"{__name__}.dict_of", "a": 1}]})
    with pytest.raises(UserError, match="dict_of"):
        build(node)
    monkeypatch.setattr("projectlib.config.plugins.PLUGINS", {__name__})
    assert build(node, b=2) == {"inner": [{"a": 1}], "b": 2}
