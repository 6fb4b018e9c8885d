"""YAML of a stranger under each of its readers: small files that stand for much end in one line, at once."""

import time

import pytest

from projectlib.config.bounds import check_yaml
from projectlib.config.compose import compose
from projectlib.config.experiments import read_experiment
from projectlib.errors import UserError
from projectlib.runs.folder import read_settings

ALIASES = "a: &a [x, x]\n" + "".join(
    f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 9)}]\n" for i in range(30)
)
BOMBS = {
    "aliases": ALIASES,
    "merged": "a: &a {x: 1}\n" + "".join(f"b{i}: &b{i} {{<<: [*a, *a], y: [*a]}}\n" for i in range(50_000)),
    "itself": "a: &a [*a]\n",
    "brackets": "a: " + "[" * 200_000 + "]" * 200_000,
    "dashes": "a:\n  " + "- " * 200_000 + "x\n",
    "sixties": "a: " + "1:" * 100_000 + "1",
    "digits": "a: " + "9" * 100_000,
    "long": "a: [" + "1, " * 200_000 + "1]",
}


@pytest.fixture(params=BOMBS)
def bomb(request):
    began = time.process_time()
    yield BOMBS[request.param]
    assert time.process_time() - began < 10


def test_a_run_folder(tmp_path, bomb):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(bomb)
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        read_settings(tmp_path, "config.yaml")


def test_an_experiment(tmp_path, bomb):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "evil.yaml").write_text(bomb)
    with pytest.raises(UserError, match=r"evil\.yaml cannot be read"):
        read_experiment("evil", tmp_path)
    with pytest.raises(UserError, match=r"evil\.yaml cannot be read"):
        compose("train-biohsic", ["data=xor", "experiment=evil"], tmp_path)


def test_a_folder_on_the_search_path(tmp_path, bomb, script):
    (tmp_path / "theirs" / "model").mkdir(parents=True)
    (tmp_path / "theirs" / "model" / "evil.yaml").write_text(bomb)
    ended = script("train-biohsic", "data=xor", "model=evil", f"hydra.searchpath=[file://{tmp_path / 'theirs'}]")
    assert ended.code == 1
    assert "evil.yaml cannot be read" in ended.error


def test_text_that_is_no_yaml(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "evil.yaml").write_bytes(b"\xff\xfe: [")
    with pytest.raises(UserError, match=r"evil\.yaml cannot be read"):
        compose("train-biohsic", ["data=xor", "model=evil"], tmp_path)


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    (tmp_path / ".hydra").mkdir()
    with open(tmp_path / ".hydra" / "config.yaml", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="expected at most"):
        read_settings(tmp_path, "config.yaml")


def test_a_config_of_gigabytes_is_not_read(tmp_path):
    (tmp_path / "model").mkdir()
    with open(tmp_path / "model" / "evil.yaml", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r"evil\.yaml cannot be read"):
        compose("train-biohsic", ["data=xor", "model=evil"], tmp_path)


def test_anchors_as_somebody_writes_them_are_read(tmp_path):
    text = "base: &base {x: 1}\nmine: {<<: *base, y: [*base, *base]}\n"
    check_yaml(text)
    with pytest.raises(ValueError, match="aliases"):
        check_yaml(text, aliases=False)
