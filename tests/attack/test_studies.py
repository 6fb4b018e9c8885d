"""A ``study.db`` of a stranger: refused in one line that names it; nothing in it runs, and nothing waits."""

import os
import pickle
import sqlite3
import time
from pathlib import Path

import optuna
import pytest
from test_checkpoint_files import Trap
from test_search import fake_train, make_config

from projectlib.errors import UserError
from projectlib.sweeps.search import run_worker

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) AS study_id FROM n"


def database(*statements):
    def make(path):
        with sqlite3.connect(path) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    return make


def study(name, **attributes):
    def make(path):
        made = optuna.create_study(study_name=name, storage=f"sqlite:///{path}", direction="maximize")
        for key, value in attributes.items():
            made.set_user_attr(key, value)
        made.add_trial(optuna.trial.create_trial(value=1.0, params={}, distributions={}))

    return make


HOSTILE = {
    "garbage": lambda path: path.write_bytes(b"garbage" * 999),
    "a header and garbage": lambda path: path.write_bytes(b"SQLite format 3\0" + b"garbage" * 999),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Trap(Path("sprung")))),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a pipe as its journal": lambda path: os.mkfifo(f"{path}-journal"),
    "tables of its names": database("CREATE TABLE studies (a)", "CREATE TABLE trials (b)"),
    "a version of its own": database(
        "CREATE TABLE version_info (version_info_id, schema_version, library_version)",
        "INSERT INTO version_info VALUES (1, 99, '99')",
    ),
    "a view that never ends": database(f"CREATE VIEW studies AS {ENDLESS}"),
    "a trigger": lambda path: [
        study("search")(path),
        database(f"CREATE TRIGGER t AFTER INSERT ON trials BEGIN {ENDLESS}; END")(path),
    ],
    "a search of other settings": study("search", about="{}"),
    "attributes of another type": study("search", about=[1]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_study_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    HOSTILE[name](tmp_path / "study.db")
    began = time.process_time()
    with pytest.raises(UserError, match=r"search\.folder") as error:
        run_worker(make_config(tmp_path), None)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("sprung").exists()
    assert time.process_time() - began < 20


def test_tables_of_somebody_else_beside_ours_are_left_alone(tmp_path):
    database("CREATE TABLE theirs (a)", "INSERT INTO theirs VALUES (1)")(tmp_path / "study.db")
    study("another")(tmp_path / "study.db")
    run_worker(make_config(tmp_path, trials=1), fake_train)
    with sqlite3.connect(tmp_path / "study.db") as connection:
        assert connection.execute("SELECT a FROM theirs").fetchall() == [(1,)]


SPOILT = {
    "a parameter of another name": "UPDATE trial_params SET param_name = 'logger._target_' WHERE param_id = 1",
    "a distribution that is none": "UPDATE trial_params SET distribution_json = '[]'",
    "a state that is none": "UPDATE trials SET state = 'OTHER'",
    "a value that is text": "UPDATE trial_values SET value = 'much'",
    "settings that are none": "UPDATE study_user_attributes SET value_json = '{'",
    "a trial that repeats a path": "INSERT INTO trial_system_attributes "
    "SELECT NULL, trial_id, 'failed_trial', '\"../../x\"' FROM trials",
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_study_is_refused(tmp_path, name):
    config = make_config(tmp_path, trials=2)
    run_worker(config, fake_train)
    database(SPOILT[name])(tmp_path / "study.db")
    with pytest.raises(UserError, match=r"study\.db cannot be used"):
        run_worker(config, fake_train)
