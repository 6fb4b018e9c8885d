"""Runs gathered into one table: values, statuses, and nothing dropped."""

import csv
import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import yaml

from projectlib.errors import UserError
from projectlib.runs.files import locked
from projectlib.runs.run import Run, find_runs
from projectlib.sweeps.collect import collect, main, pool, table, to_csv

CONFIG = {
    "seed": 0,
    "nmodels": 2,
    "training": {"nepochs": 2, "log_interval": 10},
    "hsic": {"gamma": 2, "sigmas": [0.5, 1]},
    "rule": {"gamma": "${hsic.gamma}"},
    "data": {"seed": "${seed}"},
}


def make_run(folder, summary=None, **changes):
    """A run folder; changes: ``hsic__gamma=5``."""
    config = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def finished(mean, sd=None):
    metrics = {"test": {"loss": {"mean": 1.0, "sd": sd}, "accuracy": {"mean": mean, "sd": sd}}}
    best = {split: {"accuracy": {"mean": mean + 0.01, "sd": sd, "epoch": 1}} for split in ("test", "validation")}
    return {"status": "finished", "metrics": metrics, "best": best, "wall_seconds": 12.5}


def rows_of(text):
    return list(csv.DictReader(text.splitlines()))


def test_pool_is_the_mean_and_sd_of_all_members():
    samples = [np.array([0.1, 0.4, 0.2]), np.array([0.9]), np.array([0.5, 0.6])]
    mean, sd = pool((len(s), s.mean(), s.std(ddof=1) if len(s) > 1 else None) for s in samples)
    everything = np.concatenate(samples)
    assert mean == pytest.approx(everything.mean())
    assert sd == pytest.approx(everything.std(ddof=1))
    assert pool([(1, 0.5, None)]) == (0.5, None)


def test_only_settings_that_vary_are_columns(tmp_path):
    make_run(tmp_path / "0", finished(0.9, 0.1))
    make_run(tmp_path / "1", finished(0.8, 0.1), hsic__gamma=5, seed=7, training__log_interval=1)
    header, *rows = csv.reader(to_csv(collect([tmp_path])).splitlines())
    settings = header[header.index("status") + 1 : header.index("test_loss")]
    assert settings == ["hsic.gamma", "seed", "nmodels"]
    assert [row[header.index("hsic.gamma")] for row in rows] == ["2", "5"]
    assert [row[header.index("best_validation_accuracy")] for row in rows] == ["0.91", "0.81"]
    assert "best_test_accuracy" not in header


def test_table_groups_over_seeds(tmp_path):
    for seed, gamma, mean in [(0, 2, 0.8), (1, 2, 0.9), (0, 5, 0.5)]:
        make_run(tmp_path / f"{seed}-{gamma}", finished(mean), seed=seed, hsic__gamma=gamma, nmodels=1)
    found = {line["hsic.gamma"]: line for line in table(collect([tmp_path])).to_dict("records")}
    assert found["2"]["test_accuracy"] == "85.00 ± 7.07"
    assert found["2"]["runs"] == "2"
    assert found["5"]["test_accuracy"] == "50.00"
    assert found["2"]["models"] == "2"


def test_models_that_begin_alike_are_counted(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / str(seed), finished(0.5, 0.1), seed=seed, nmodels=3)
    assert [*table(collect([tmp_path]))["models"]] == ["6 from 4 seeds"]


def test_what_memories_measured_is_no_setting(tmp_path):
    for seed, norm in ((0, 1.0), (10, 2.0)):
        summary = finished(0.5, 0.1)
        summary["metrics"]["memory"] = {"norm_layer0": {"mean": norm, "sd": 0.1}}
        make_run(tmp_path / str(seed), summary, seed=seed)
    assert len(table(collect([tmp_path]))) == 1


def test_a_table_that_cannot_be_written_is_told_in_one_line(tmp_path):
    make_run(tmp_path / "0", finished(0.5))
    with pytest.raises(SystemExit, match=r"error: .*nowhere"):
        main([str(tmp_path), "-o", str(tmp_path / "nowhere" / "x.csv")])


def test_a_log_or_an_array_of_terabytes_is_not_read(tmp_path):
    folder = make_run(tmp_path / "0")
    with open(folder / "train.log", "wb") as file:
        file.truncate(2**40)
    (row,) = collect([tmp_path])
    assert row["status"] == "interrupted"
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f8", "fortran_order": False, "shape": (2**46,)})
    with zipfile.ZipFile(folder / "arrays.npz", "w") as file:
        file.writestr("x.npy", array.getvalue())
    with pytest.raises(UserError, match="damaged"):
        Run(folder).arrays()


def test_every_status_is_told(tmp_path, capsys):
    make_run(tmp_path / "0", finished(0.9))
    make_run(tmp_path / "1", {"status": "failed", "error": "loss is nan\nand more", "metrics": {}})
    make_run(tmp_path / "2")
    make_run(tmp_path / "3", {"status": "interrupted", "metrics": {}})
    running = make_run(tmp_path / "4", {"status": "interrupted", "metrics": {}})  # taken up again
    (running / "metrics.csv").write_text("epoch,split,model,accuracy\n0,test,0,0.1\n1,test,0,0.25\n1,test,1,0.75\n")
    early = make_run(tmp_path / "5")
    (early / "train.log").write_text("[now][projectlib.cli.main][ERROR] - the folder is locked\n")
    with locked(running):
        main([str(tmp_path), "-o", str(tmp_path / "runs.csv")])
    rows = rows_of((tmp_path / "runs.csv").read_text())
    assert [row["status"] for row in rows] == ["finished", "failed", "interrupted", "interrupted", "running", "failed"]
    assert rows[0]["wall_seconds"] == "12.5"
    printed = capsys.readouterr().out
    assert "loss is nan" in printed
    assert "and more" not in printed
    assert "the folder is locked" in printed
    assert "6 runs: 2 failed, 2 interrupted, 1 finished, 1 running" in printed


def test_a_run_without_a_summary_shows_its_last_epoch(tmp_path):
    folder = make_run(tmp_path / "0")
    (folder / "metrics.csv").write_text("epoch,split,model,accuracy\n0,test,0,0.1\n1,test,0,0.25\n1,test,1,0.75\n")
    (row,) = collect([tmp_path])
    assert row["test_accuracy"] == 0.5
    assert row["test_accuracy_sd"] == pytest.approx(np.std([0.25, 0.75], ddof=1))


def test_a_skipped_job_shows_the_run_it_stands_for_once(tmp_path):
    earlier = make_run(tmp_path / "first" / "0", finished(0.9))
    make_run(tmp_path / "second" / "0", {"status": "skipped", "finished_in": str(earlier)})
    (row,) = collect([tmp_path / "second"])
    assert (row["folder"], row["status"]) == (str(earlier), "finished")
    assert len(collect([tmp_path / "first", tmp_path / "second"])) == 1


def test_damaged_folders_are_rows_too(tmp_path):
    folder = make_run(tmp_path / "0")
    (folder / ".hydra" / "config.yaml").write_text("a: [")
    (folder / "summary.json").write_text('{"status"')
    (folder / "metrics.csv").write_text("")
    (row,) = collect([tmp_path])
    assert row["status"] == "damaged"
    assert "summary.json cannot be read" in row["error"]


def test_a_damaged_run_makes_no_setting_vary(tmp_path):
    for name in ("0", "1"):
        make_run(tmp_path / name)
    (tmp_path / "1" / ".hydra" / "config.yaml").write_text("a: [")
    rows = collect([tmp_path])
    assert [row["status"] for row in rows].count("damaged") == 1
    assert "hsic.gamma" not in to_csv(rows)


def test_runs_are_found_in_natural_order_and_hidden_folders_left_out(tmp_path):
    for name in ("10", "2", ".submitit", "a"):
        make_run(tmp_path / name)
    assert [run.folder.name for run in find_runs(tmp_path)] == ["2", "10", "a"]


def test_no_runs_is_said(tmp_path):
    with pytest.raises(SystemExit, match="no run folder"):
        main([str(tmp_path)])
    with pytest.raises(SystemExit, match="is no folder"):
        main([str(tmp_path / "nothing")])


def test_collecting_does_not_import_torch():
    code = "import sys, projectlib.sweeps.collect; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_wide_table_goes_on_below_and_begins_with_the_result(tmp_path, capsys):
    settings = {f"hsic__{letter}": letter * 40 for letter in "abcd"}
    make_run(tmp_path / "0", finished(0.9), **settings)
    make_run(tmp_path / "1", finished(0.8), **{key: value[1:] for key, value in settings.items()})
    make_run(tmp_path / "2", {"status": "searched", "study": "study"})
    main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["test_accuracy", "best_validation_accuracy", "runs"]
    assert max(map(len, lines)) <= 120
    assert lines[-1] == "3 runs: 2 finished, 1 searched"
