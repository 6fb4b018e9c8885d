"""The table and the figure of depth, from run folders of a few samples each."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import ROOT, scripts_in_this_process
from data_files import write_mnist
from sklearn.linear_model import Ridge
from tiny_runs import accuracies

from projectlib import plotting
from projectlib.config.plugins import build
from projectlib.errors import UserError
from projectlib.plotting.depth import RIDGE, probe
from projectlib.plotting.table import COLUMNS, ROWS, markdown, table
from projectlib.sweeps.experiments import Results, config_of, plan
from projectlib.training.tasks import build_task

TINY = ("data=digits", "data.limit=60", "training.nepochs=1", "nmodels=2", "engine=eager")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of two rows of the first column, and one of the third; another row's run has a network of its own."""
    folder = tmp_path_factory.mktemp("table")
    with scripts_in_this_process(folder) as run:
        runs = [
            ("mnist", "delta"),
            ("mnist", "backprop"),
            ("digits", "frozen"),
            ("digits", "window", "model.features=[9]"),
        ]
        for column, name, *more in runs:
            (planned,) = [one for one in plan(f"table/{column}", settings=TINY) if one.name == name]
            assert run(planned.script, *planned.overrides, *more, f"hydra.run.dir=outputs/{column}-{name}") == 0
    return Results([folder / "outputs"], settings=TINY)


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_an_experiment_of_known_rows(column):
    names = [one.name for one in plan(f"table/{column}")]
    assert names
    assert set(names) <= set(ROWS)
    for one in plan(f"table/{column}"):
        assert one.config.data.name == column.removesuffix("-searched")


def test_a_row_says_what_its_run_folder_says(results):
    rows = table(results).set_index(["column", "rule"])
    assert sorted(rows.index) == [("digits", "frozen"), ("mnist", "backprop"), ("mnist", "delta")]
    (run,) = results.newest(next(one for one in plan("table/mnist", settings=TINY) if one.name == "delta"))
    accuracies = [r["accuracy"] for r in run.history.rows if r["split"] == "test" and r["epoch"] == 1]
    assert rows.accuracy["mnist", "delta"] == pytest.approx(100 * np.mean(accuracies))
    assert rows.sd["mnist", "delta"] == pytest.approx(100 * np.std(accuracies, ddof=1))
    assert rows.kept["mnist", "delta"] == run.summary["numbers_kept"] > 0
    assert rows.kept["mnist", "backprop"] == 0
    assert (rows.seconds > 0).all()


def test_the_page_has_a_line_a_rule_and_a_dash_where_nothing_was_run(results):
    page = markdown(table(results)).splitlines()
    (line,) = [line for line in page if line.startswith("| delta memory | labels |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2].endswith("%")
    assert cells[3:] == ["-"] * 5
    command = "`python train-biohsic.py experiment=table/mnist modulator=delta optimizer=adamw-averaged"
    assert sum(command in line for line in page) == 1


def test_make_table_writes_the_page_and_its_figure(results, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(plotting.table, "Results", lambda **options: asked.append(options) or results)
    plotting.table.main(["--size", "quick", "--into", str(tmp_path), *TINY])
    assert asked == [{"size": "quick", "settings": [*TINY]}]
    assert capsys.readouterr().out.splitlines()[-1] == f"written: {tmp_path / 'table.md'}"
    assert "| delta memory | labels |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert (tmp_path / "table.png").stat().st_size > 2000


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "labels and the input"),
        (["hsic.form=parzen"], "labels"),
        (["modulator=remembered"], "labels"),
        (["modulator=remembered", "modulator.signal=published"], "labels and the input"),
        (["rule=phsic"], "how alike labels are"),
        (["rule=frozen"], "nothing"),
    ],
)
def test_what_is_transported_follows_from_the_settings(overrides, expected):
    config = config_of("train-biohsic", "data=digits", *overrides)
    assert build(config.rule).transports == expected


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ([], 5 * (64 + 10)),  # of a window of 6: inputs and labels before the newest
        (["rule=phsic", "rule.groups=null", "data.batchsize=8"], 8 * (64 + 5 + 4 + 10)),
        (["modulator=delta", "readout.window=1"], (5 + 10 + 5 * 10) + (4 + 10 + 4 * 10)),
        (["rule=frozen"], 5 * (64 + 10)),  # its readout learns from the whole window, too
        (["rule=frozen", "optimizer=adamw-averaged"], 0),
    ],
)
def test_numbers_kept_are_what_the_next_update_needs(overrides, kept):
    settings = ("data=digits", "nmodels=2", "model.features=[5,4]", *overrides)
    task = build_task(config_of("train-biohsic", *settings), torch.device("cpu"), "eager")
    assert task.numbers_kept == kept


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of as many pixels as MNIST's."""
    folder = tmp_path_factory.mktemp("images")
    write_mnist(folder, num_train=40)
    return folder


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ("modulator=window", 3970),
        ("modulator=remembered modulator.size=6 optimizer=adamw-averaged", 1642),
        ("modulator=remembered modulator.size=64 optimizer=adamw-averaged", 13938),
        ("modulator=remembered modulator.size=256 optimizer=adamw-averaged", 54642),
        ("modulator=covariance optimizer=adamw-averaged", 22982),
        ("modulator=class-means optimizer=adamw-averaged", 2290),
        ("modulator=delta optimizer=adamw-averaged", 2502),
        ("rule=local-classifier optimizer=adamw-averaged", 1940),
        ("rule=local-classifier rule.feedback=random optimizer=adamw-averaged", 3860),
        ("rule=direct-feedback-alignment optimizer=adamw-averaged", 1920),
        ("rule=feedback-alignment optimizer=adamw-averaged", 8832),
        ("rule=phsic optimizer=adamw-averaged", 31552),
    ],
)
def test_numbers_kept_of_mnist_are_those_of_the_pages(images, overrides, kept):
    row = "the paper" if overrides == "modulator=window" else f"`{overrides}`"
    command = f"`python train-biohsic.py experiment=table/mnist {overrides}`"
    told = {
        number
        for page in ("README.md", "docs/memories.md", "docs/table.md")
        for pattern in (rf"^\|[^|]*{re.escape(row)}[^|]*\| ([\d,]+) \|", rf"\| ([\d,]+) \| {re.escape(command)}")
        for number in re.findall(pattern, (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert told == {f"{kept:,}"}
    settings = ("data=mnist", f"data.root={images}", "nmodels=1", *overrides.split())
    assert build_task(config_of("train-biohsic", *settings), torch.device("cpu"), "eager").numbers_kept == kept


def test_no_run_at_all_is_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match="expected some: make table"):
        table(Results([tmp_path]))


def test_the_figure_has_a_marker_a_rule(results):
    figure, ax = plt.subplots()
    rows = table(results)
    plotting.table.accuracy_by_time(rows, ax)
    assert len(ax.containers) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["delta memory", "back-propagation"]
    plt.close(figure)


def test_a_probe_is_ridge_regression():
    generator = torch.Generator().manual_seed(0)
    z, held_out = (torch.randn(n, 5, dtype=torch.float64, generator=generator) for n in (80, 300))
    direction = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    y = torch.nn.functional.one_hot((z @ direction).argmax(1), 3).double()
    labels = (held_out @ direction).argmax(1)
    strength = RIDGE * ((z - z.mean(0)) ** 2).sum(0).mean().item()
    reference = Ridge(alpha=strength).fit(z, y).predict(held_out).argmax(1)
    accuracy = probe(z, y, held_out, labels)
    assert accuracy == pytest.approx((reference == labels.numpy()).mean())
    assert 0.5 < accuracy < 1


def test_every_layer_of_every_depth_is_probed(tmp_path):
    names = [f"delta-{depth}" for depth in (2, 4)]
    with scripts_in_this_process(tmp_path) as run:
        for name in names:
            (planned,) = [one for one in plan("table/depth", settings=TINY) if one.name == name]
            assert run(planned.script, *planned.overrides, f"hydra.run.dir={name}") == 0
    figure, axes = plt.subplots(1, 2)
    plotting.depth.linear_probes([tmp_path / name for name in names], axes)
    lengths = [len(ax.containers[0].lines[0].get_xdata()) for ax in axes]
    assert lengths == [2, 4]
    values = np.concatenate([ax.containers[0].lines[0].get_ydata() for ax in axes])
    assert ((values > 20) & (values <= 100)).all()
    plt.close(figure)
    text = plotting.depth.section([tmp_path / name for name in names], tmp_path / "page")
    (line,) = [line for line in text.splitlines() if line.startswith("| delta memory |")]
    shown = [float(value) for value in re.findall(r"[\d.]+", line)]
    own = [100 * np.mean(accuracies(tmp_path / name)) for name in names]
    assert shown == [round(value, 1) for value in (*values[:2], own[0], values[2], values[5], own[1])]
    assert (tmp_path / "page" / "depth.png").stat().st_size > 1000
