"""The comparison of runs: numbers against scipy's own, one file that needs no other."""

import html
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import run_tiny
from scipy import stats
from tiny_runs import accuracies

from projectlib.errors import UserError
from projectlib.plotting.report import METRICS, final, letters, main, paired_interval, report
from projectlib.runs.history import History
from projectlib.runs.run import open_runs
from projectlib.sweeps.experiments import Results, plan


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    backprop, local, exact, _ = plan("mnist", "quick")
    folder = run_tiny(tmp_path_factory.mktemp("results"), [local, exact, backprop, *plan("reservoir", "quick")])
    results = Results([folder / "outputs"], "quick")
    return open_runs([*results.runs("mnist", "local", "exact", "backprop"), *results.runs("reservoir")])


def test_paired_interval_against_scipy():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 9))
    values, reference = dict(zip(range(42, 51), a, strict=True)), dict(zip(range(44, 53), b, strict=True))
    found = paired_interval(values, reference)
    expected = stats.ttest_rel(a[2:], b[:7]).confidence_interval(0.95)
    assert found.pairs == 7
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high])
    np.testing.assert_allclose(found.mean, np.mean(a[2:] - b[:7]))


def test_paired_interval_of_few_models():
    assert paired_interval({1: 2.0}, {2: 1.0}) == (0, None, None, None)
    assert paired_interval({1: 2.0}, {1: 1.5}) == (1, 0.5, None, None)
    assert paired_interval({1: 2.0, 2: 3.0}, {1: 1.0, 2: 2.0}) == (2, 1.0, 1.0, 1.0)


def test_the_page_says_what_the_runs_say(runs):
    text = html.unescape(report(runs))
    for run in runs:
        assert str(run.folder) in text
    accuracy = 100 * np.array(accuracies(runs[0].folder))
    assert f"{accuracy.mean():.2f} ± {accuracy.std(ddof=1):.2f}" in text
    assert re.search(r"<th>hsic\.form</th><td>published</td><td>exact</td><td>published</td>", text)
    assert "<th>data.batchsize</th>" in text
    assert "<th>data.test_batchsize</th>" not in text  # one for all networks and the reservoir
    assert text.count("<img") == 5
    assert "B minus A" in text


def test_differences_are_those_after_the_last_epoch_of_both(runs, tmp_path):
    """Of three models: the first run goes on for longer than the second, and ends before the third."""
    accuracies = {
        "A": ([0.1] * 3, [0.5, 0.6, 0.7], [0.9, 0.8, 0.7]),
        "B": ([0.2] * 3, [0.56, 0.68, 0.8]),
        "C": ([0.3] * 3, [0.3] * 3, [0.91, 0.79, 0.73], [0.1] * 3),
    }
    folders = [Path(shutil.copytree(runs[0].folder, tmp_path / name)) for name in accuracies]
    for folder, by_epoch in zip(folders, accuracies.values(), strict=True):
        history = History()
        for epoch, values in enumerate(by_epoch, 1):
            history.add(epoch, "test", {"accuracy": np.array(values)})
        history.write(folder / "metrics.csv")
    text = report(open_runs(folders))
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in text.splitlines() if " minus A" in row]
    assert cells == [
        ["B minus A", "2", "3", "+8", "+3.03 to +13", "differs"],
        ["C minus A", "3", "3", "+1", "-3.97 to +5.97", "0 lies within"],
    ]


def test_final_values_are_told_by_seed(runs):
    assert [*final(runs[0], METRICS[0])] == [42, 43]
    assert final(runs[-1], METRICS[0]) == {}


def test_the_page_needs_no_other_file(runs):
    text = report(runs)
    for link in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert link.startswith("data:")
    assert not re.search(r"@import|<script|<link|url\(", text)


def test_text_is_escaped(runs, tmp_path):
    folder = shutil.copytree(runs[0].folder, tmp_path / "a<b>&c")
    text = report(open_runs(folder))
    assert "a<b>" not in text
    assert "a&lt;b&gt;&amp;c" in text


def test_the_command_writes_the_page(runs, tmp_path, capsys):
    path = tmp_path / "comparison.html"
    main([*(str(run.folder) for run in runs), "-o", str(path)])
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert capsys.readouterr().out == f"{path}\n"
    with pytest.raises(UserError, match="cannot write"):
        main([str(runs[0].folder), "-o", str(tmp_path / "nowhere" / "x.html")])
    with pytest.raises(UserError, match="does not exist"):
        main([str(tmp_path / "nowhere")])


def test_what_has_no_metrics_is_left_out_with_a_note(runs, tmp_path, capsys):
    evaluated = shutil.copytree(runs[0].folder, tmp_path / "evaluated")
    (evaluated / "metrics.csv").unlink()
    (evaluated / "summary.json").write_text('{"status": "evaluated"}')
    (tmp_path / "empty").mkdir()
    page = tmp_path / "page.html"
    main([str(tmp_path / "empty"), str(evaluated), *(str(run.folder) for run in runs[:2]), "-o", str(page)])
    assert f"left out: {tmp_path / 'empty'} holds no run" in capsys.readouterr().err
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert "left out: evaluated; it has no metrics" in text
    assert "C minus B" in text
    assert "C: hsic.form=exact" in text


def test_letters_of_runs():
    assert letters(28)[:2] == ["A", "B"]
    assert letters(28)[-3:] == ["Z", "AA", "AB"]
