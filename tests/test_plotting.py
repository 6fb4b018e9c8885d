"""Figures have their curves, experiments are what they say, and what is missing or damaged is told in one line."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.container import ErrorbarContainer
from omegaconf import OmegaConf

from projectlib import plotting
from projectlib.config.compose import compose
from projectlib.config.experiments import experiment_names
from projectlib.errors import UserError
from projectlib.plotting.page import new_figure
from projectlib.plotting.style import KINDS, PERCENT, SEQUENCE, band, conditions, kind, names_and_looks
from projectlib.runs.folder import read_config
from projectlib.runs.history import History
from projectlib.runs.run import Run, all_runs, open_runs
from projectlib.sweeps import experiments
from projectlib.sweeps.experiments import Results, is_complete, missing_command, plan, run_missing

NAMES = experiment_names()
NOTEBOOK = Path(__file__).parents[1] / "plotting.ipynb"
DRAWN = {  # lines and images in the axes of every figure, at least
    "reservoir": [(0, 1)] * 6,
    "reservoir-error": [(2, 0), (4, 0)],
    "linear": [(0, 0), (0, 0), (3, 0), (4, 0)],
    "xor": [(0, 0), (0, 0), (3, 0), (6, 0)],
    "mnist": [(4, 0)],
    "cifar10": [(4, 0)],
    "window-mnist": [(4, 0)],
    "window-cifar10": [(4, 0)],
    "three-factors": [(0, 1)] * 3,
    "signal-cosine": [(5, 0), (5, 0)],
    "signal-cosine-windows": [(3, 0)],
    "representations": [(0, 1)] * 8,
    "memories": [(6, 0)],
    "memories-of-classes": [(0, 1)] * 4,
    "memories-representations": [(0, 1)] * 10,
    "spikes-accuracy": [(4, 0)],
    "spikes": [(1, 0)] * 2,
}


def cells():
    return [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """The notebook's paths."""
    monkeypatch.setenv("SIZE", "quick")
    monkeypatch.setenv("FIGURES", str(tmp_path / "figures"))
    monkeypatch.delenv("SETTINGS", raising=False)

    def results(folder):
        monkeypatch.setenv("RESULTS", str(folder / "outputs"))
        monkeypatch.setenv("SWEEPS", str(folder / "multirun"))

    yield results
    pyplot.close("all")


@cache
def run_of(results, experiment, name=None):
    """The folder of a run, the one that learns by the local rule unless it is named, or of a sweep."""
    name = name or ("reservoir" if experiment == "reservoir" else "local")
    folders = Results([results / "outputs", results / "multirun"], "quick").runs(experiment, name)
    return folders[0] if len(folders) == 1 else folders[0].parent


@pytest.fixture
def damaged(tiny_results, tmp_path):
    """A copy of a run, to be damaged."""

    def copy(name):
        return Path(shutil.copytree(run_of(tiny_results, name), tmp_path / name))

    return copy


def test_the_notebook_draws_every_figure(tiny_results, environment, tmp_path):
    environment(tiny_results)
    names = {}
    for cell in cells():
        exec(cell, names)
    assert set(pyplot.get_figlabels()) == set(DRAWN)
    for name, expected in DRAWN.items():
        axes = [ax for ax in pyplot.figure(name).axes if ax.get_label() != "<colorbar>"]
        for ax, (lines, images) in zip(axes, expected, strict=True):
            drawn = [line for line in ax.lines if len(line.get_xdata())]
            assert len(drawn) >= lines, (name, ax)
            assert len(ax.images) >= images, (name, ax)
            assert ax.has_data(), (name, ax)
            assert all(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).all() for line in drawn), (name, ax)
        for suffix in ("pdf", "png"):
            assert (tmp_path / "figures" / f"{name}.{suffix}").stat().st_size > 2000


def test_the_notebook_is_executed_as_make_does(tiny_results, environment, tmp_path, monkeypatch):
    """Its beginning and two of its figures, by the function behind --draw, which gives size and place."""
    environment(tiny_results)
    for name in ("SIZE", "FIGURES"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"][:3]
    nbformat.write(notebook, tmp_path / "plotting.ipynb")
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    drawn = nbformat.read(experiments.draw("quick", []), as_version=4)
    shown = [output for cell in drawn.cells for output in cell.get("outputs", []) if "data" in output]
    assert sum("image/png" in output.data for output in shown) == 2
    found = {path.name for path in (tmp_path / "build" / "figures-quick").iterdir()}
    assert found == {f"{name}.{suffix}" for name in ("reservoir", "reservoir-error") for suffix in ("pdf", "png")}


def test_names_and_settings_of_a_command_are_told_apart(monkeypatch):
    asked = []
    monkeypatch.setattr(experiments, "run_missing", lambda planned: asked.extend(planned) or ["mnist local"])
    with pytest.raises(UserError, match=r"^failed: mnist local$"):
        experiments.main(["xor", "--size", "quick", "nmodels=5", "mnist"])
    wanted = [one.command for name in ("xor", "mnist") for one in plan(name, "quick", ["nmodels=5"])]
    assert [one.command for one in asked] == wanted


def test_without_runs_the_notebook_names_the_commands_and_goes_on(environment, tmp_path, capsys):
    environment(tmp_path)
    names = {}
    for cell in cells():
        exec(cell, names)
    printed = capsys.readouterr().out
    assert not pyplot.get_figlabels()
    assert all(one.name == "frozen" or one.command in printed for name in NAMES for one in plan(name, "quick"))
    assert all(f"no figure {name}: " in printed for name in DRAWN)


def test_the_committed_notebook_has_no_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_accuracy_draws_mean_and_published_value(tiny_results):
    run = Run(run_of(tiny_results, "xor"))
    _, ax = new_figure()
    plotting.curves.accuracy(run.folder, ax)
    rows = [row for row in run.history.rows if row["split"] == "test"]
    expected = [100 * np.mean([r["accuracy"] for r in rows if r["epoch"] == epoch]) for epoch in range(3)]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), expected)
    assert ax.lines[1].get_ydata()[0] == 96
    assert "published" in ax.get_legend_handles_labels()[1][1]


def test_window_size_refuses_several_runs_of_one_window(tiny_results):
    jobs = run_of(tiny_results, "window-mnist")
    with pytest.raises(UserError, match="several runs have the same window"):
        plotting.curves.window_size(
            [jobs, *(run_of(tiny_results, "mnist", name) for name in ("local", "exact"))], new_figure()[1]
        )


def test_window_size_draws_every_window(tiny_results):
    _, ax = new_figure()
    plotting.curves.window_size(run_of(tiny_results, "window-mnist"), ax)
    bars = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
    assert [bar.get_label() for bar in bars] == [f"epoch {e}, {split}" for e in (1, 2) for split in ("test", "train")]
    assert all([*bar.lines[0].get_xdata()] == [2, 4, 8, 16, 32] for bar in bars)


def test_heat_maps_show_the_traces(tiny_results):
    run = Run(run_of(tiny_results, "reservoir"))
    _, axes = new_figure(2, 3)
    plotting.reservoir.heat_maps(run.folder, axes)
    *values, dt = plotting.reservoir.simulation(run)
    scale = len(values[0]) * dt / plotting.reservoir.STRETCHES[-1][1]  # the run is shorter
    for row, of_row in zip(axes, values, strict=True):
        for ax, stretch in zip(row, plotting.reservoir.STRETCHES, strict=True):
            start, stop = (round(scale * time / dt) for time in stretch)
            np.testing.assert_array_equal(ax.images[0].get_array().T, of_row[start : max(stop, start + 1)])


def assert_curves(ax, x, values):
    """The first lines and bands of an axis are means and sds of values (curves, len(x), models)."""
    for line, drawn, expected in zip(ax.lines[: len(values)], ax.collections, values, strict=True):
        mean, sd = expected.mean(1), expected.std(1, ddof=1)
        np.testing.assert_array_equal(line.get_xdata(), x)
        np.testing.assert_allclose(line.get_ydata(), mean)
        (path,) = drawn.get_paths()
        ends = [path.vertices[path.vertices[:, 0] == place, 1] for place in x]
        np.testing.assert_allclose([[e.min(), e.max()] for e in ends], np.stack([mean - sd, mean + sd], 1))


SIZES = [2, 6, 9]  # of windows


def write_cosines(folder, seed):
    """Of two epochs, three models, two layers and the sizes."""
    cosine = np.random.default_rng(seed).uniform(size=(2, 3, 2, len(SIZES)))
    np.savez(folder / "arrays.npz", epoch=[0, 5], cosine=cosine, window_sizes=[SIZES, SIZES])
    return cosine


def test_cosines_of_a_run_are_those_of_its_layers_and_their_means(run_folder):
    cosine = write_cosines(run_folder, seed=0)
    _, ax = new_figure()
    plotting.signals.cosine_over_epochs(run_folder, ax)
    assert_curves(ax, [0, 5], np.moveaxis(cosine.mean(2), 2, 0))
    _, ax = new_figure()
    plotting.signals.cosine_by_window(run_folder, ax)
    assert_curves(ax, SIZES, np.array([cosine[epoch, :, layer].T for layer in (0, 1) for epoch in (0, 1)]))
    assert [line.get_label() for line in ax.lines[:3]] == ["layer 1, epoch 0", "layer 1, epoch 5", "layer 2, epoch 0"]


def test_cosines_of_a_sweep_are_those_of_each_window_in_its_own_run(run_folder, tmp_path):
    other = Path(shutil.copytree(run_folder, tmp_path / "other"))
    config = read_config(other)
    config.data.batchsize = 2
    OmegaConf.save(config, other / ".hydra" / "config.yaml")
    of_six, of_two = (write_cosines(folder, seed).mean(2) for seed, folder in enumerate((run_folder, other)))
    _, ax = new_figure()
    plotting.signals.cosine_by_window([run_folder, other], ax)
    assert_curves(ax, [2, 6], np.array([[of_two[epoch, :, 0], of_six[epoch, :, 1]] for epoch in (0, 1)]))


def test_errors_over_time_are_relative_to_the_variance_of_the_epoch(run_folder):
    """Of two epochs of four windows after the one before training, five time steps each and two numbers."""
    config = read_config(run_folder)
    config.task, config.training.time_step = "reservoir", 0.1
    OmegaConf.save(config, run_folder / ".hydra" / "config.yaml")
    target, output = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 2))
    np.savez(run_folder / "traces.npz", target=target, output=output)
    _, ax = new_figure()
    plotting.reservoir.error_over_time(run_folder, ax)
    percent = np.array(
        [[100 * np.mean((output[e, w] - target[e, w]) ** 2) / target[e].var() for w in range(4)] for e in (1, 2)]
    )
    windows, epochs = ax.lines
    np.testing.assert_allclose(windows.get_xdata(), 0.5 * np.arange(1, 9))
    np.testing.assert_allclose(windows.get_ydata(), percent.ravel())
    np.testing.assert_allclose(epochs.get_xdata(), [1, 3])
    np.testing.assert_allclose(epochs.get_ydata(), percent.mean(1))


def test_accuracy_is_drawn_against_the_numbers_kept(run_folder, tmp_path):
    """Remembered windows joined, back-propagation, which keeps nothing, as a line, and frozen layers left out."""
    rows = {
        "many": ("biohsic", "remembered", 30, [0.5, 0.7, 0.75]),
        "few": ("biohsic", "remembered", 10, [0.5, 0.6, 0.76]),
        "delta": ("biohsic", "delta", 20, [0.8, 0.9, 0.85]),
        "backprop": ("backprop", "window", 0, [0.9, 0.95, 0.97]),
        "frozen": ("frozen", "window", 40, [0.2, 0.3, 0.1]),
    }
    for name, (rule, modulator, kept, accuracies) in rows.items():
        folder = Path(shutil.copytree(run_folder, tmp_path / name))
        hydra = folder / ".hydra" / "hydra.yaml"
        text = hydra.read_text().replace("  rule: biohsic\n", f"  rule: {rule}\n")
        hydra.write_text(text.replace("  modulator: window\n", f"  modulator: {modulator}\n"))
        (folder / "summary.json").write_text(json.dumps({"status": "finished", "numbers_kept": kept}))
        history = History()
        for epoch, values in enumerate(([0.1, 0.1, 0.2], accuracies)):
            history.add(epoch, "test", {"accuracy": np.array(values)})
        history.write(folder / "metrics.csv")
    _, ax = new_figure()
    plotting.memories.accuracy_by_numbers_kept([tmp_path / name for name in rows], ax)
    (line,) = [line for line in ax.lines if "keeps nothing" in line.get_label()]
    np.testing.assert_allclose(line.get_ydata(), 94)
    drawn = {bars.get_label(): bars.lines for bars in ax.containers}
    expected = {"delta memory": ["delta"], "remembered window": ["few", "many"]}
    assert drawn.keys() == expected.keys()
    for title, names in expected.items():
        points, _, (bars,) = drawn[title]
        percent = 100 * np.array([rows[name][3] for name in names])
        mean, sd = percent.mean(1), percent.std(1, ddof=1)
        np.testing.assert_array_equal(points.get_xdata(), [rows[name][2] for name in names])
        np.testing.assert_allclose(points.get_ydata(), mean)
        ends = np.array(bars.get_segments())[:, :, 1]
        np.testing.assert_allclose(ends, np.stack([mean - sd, mean + sd], 1))


@pytest.mark.parametrize("name", ["mnist", "reservoir"])
def test_a_run_draws_its_own_figures(damaged, name):
    folder = damaged(name)
    assert not (folder / "figures").exists()
    path = plotting.save_run_figure(folder)
    assert path.parent == folder / "figures"
    assert path.stat().st_size > 2000
    assert (folder / "figures" / "learning-curve.png").exists()


def composed_run(*overrides):
    """What a figure asks of a run with these overrides."""
    config = compose("train-biohsic", ["data=digits", *overrides])
    get = lambda key, default: OmegaConf.select(config, key, default=default)  # noqa: E731
    return SimpleNamespace(choices=config.hydra.runtime.choices, get=get)


def test_runs_are_told_apart(tiny_results):
    runs = open_runs([run_of(tiny_results, "mnist", name) for name in ("local", "exact", "frozen", "backprop")])
    assert [kind(run) for run in runs] == ["biohsic", "exact", "frozen", "backprop"]
    others = ("modulator=delta", "modulator=reservoir", "hsic.form=parzen", "rule=hsic")
    assert [kind(composed_run(word)) for word in others] == ["delta", "reservoir", "parzen", "hsic"]
    assert conditions(runs) == "digits (40 samples), 2 models, 2 epochs"
    sweep = open_runs(run_of(tiny_results, "window-mnist"))
    named = names_and_looks([*runs, *sweep[:2]])
    assert len({name for name, _ in named}) == len({look for _, look in named}) == 6
    for looks in (SEQUENCE, [known.look for known in KINDS.values()]):
        assert len({look.color for look in looks}) == len({look.marker for look in looks}) == len(looks)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.csv", None, "does not exist"),
        ("metrics.csv", "", "has no row"),
        ("metrics.csv", "epoch,split,model,loss,accuracy\n0,test,0,1.0,", "has no accuracy"),
        ("metrics.csv", "\0\0\x80", "cannot be read"),
        (".hydra/config.yaml", "a: [", "cannot be read"),
        (".hydra/config.yaml", "", "run of"),
        (".hydra/config.yaml", None, "holds no run"),
    ],
)
def test_a_damaged_run_is_told_in_one_line(damaged, file, text, message):
    folder = damaged("mnist")
    path = folder / file
    path.unlink() if text is None else path.write_text(text, encoding="latin-1")
    _, ax = new_figure()
    with pytest.raises(UserError) as error:
        plotting.reservoir.error(folder, ax) if "run of" in message else plotting.curves.accuracy(folder, ax)
    assert message in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", None])
def test_damaged_arrays_are_told_in_one_line(damaged, content):
    for name, file, draw in (
        ("reservoir", "traces.npz", lambda folder: plotting.reservoir.heat_maps(folder, new_figure(2, 3)[1])),
        ("mnist", "arrays.npz", lambda folder: plotting.signals.three_factors(folder, new_figure(1, 3)[1])),
    ):
        path = damaged(name) / file
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UserError, match=file):
            draw(path.parent)


def test_compressed_arrays_may_stand_for_more_than_memory_and_are_not_read(damaged):
    folder = damaged("mnist")
    np.savez_compressed(folder / "arrays.npz", signal=np.zeros((1000, 1000)))
    with pytest.raises(UserError, match=r"arrays.npz is damaged: it is compressed"):
        plotting.signals.three_factors(folder, new_figure(1, 3)[1])


def test_more_runs_than_panels_are_refused(tiny_results):
    runs = [run_of(tiny_results, "mnist"), run_of(tiny_results, "mnist", "backprop")]
    with pytest.raises(UserError, match="2 runs to draw; expected at most 1"):
        plotting.memories.of_classes(runs, new_figure(1, 1)[1])


def test_what_a_figure_does_not_draw_is_refused(tiny_results, tmp_path):
    _, ax = new_figure()
    with pytest.raises(UserError, match="expected a run of a network"):
        plotting.curves.accuracy(run_of(tiny_results, "reservoir"), ax)
    with pytest.raises(UserError, match="draws one run"):
        plotting.curves.hsic([run_of(tiny_results, "xor"), run_of(tiny_results, "linear")], ax)
    with pytest.raises(UserError, match="expected a sweep"):
        plotting.curves.window_size(run_of(tiny_results, "mnist"), ax)
    with pytest.raises(UserError, match="has no input, signal, weight_change"):
        plotting.signals.three_factors(run_of(tiny_results, "mnist", "backprop"), [ax])
    with pytest.raises(UserError, match="does not exist"):
        open_runs(tmp_path / "nowhere*")
    with pytest.raises(UserError, match="holds no run"):
        open_runs(tmp_path)


def test_a_rule_of_ones_own_is_drawn_by_its_name(damaged):
    folder = damaged("mnist")
    hydra = folder / ".hydra" / "hydra.yaml"
    hydra.write_text(hydra.read_text().replace("rule: biohsic", "rule: my_rule"))
    _, ax = new_figure()
    plotting.curves.accuracy(folder, ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["my_rule"]


def ends_of(ax):
    """The lowest and the highest place of the bands and bars of an axis."""
    places = np.concatenate([path.vertices[:, 1] for drawn in ax.collections for path in drawn.get_paths()])
    return places.min(), places.max()


def test_bands_are_a_standard_deviation_and_end_at_100_percent():
    look = SEQUENCE[0]
    for values, expected in (([[10.0, 30.0]] * 2, (20 - 200**0.5, 20 + 200**0.5)), ([[99.0, 80.0]] * 2, (76.065, 100))):
        _, ax = new_figure()
        band(ax, np.arange(2), np.array(values), "", look, PERCENT)
        assert ends_of(ax) == pytest.approx(expected, abs=1e-3)


def test_bars_are_a_standard_deviation_and_end_at_100_percent(damaged):
    run = Run(damaged("mnist"))
    for accuracies, expected in (((0.1, 0.3), (20 - 200**0.5, 20 + 200**0.5)), ((0.99, 0.8), (76.065, 100))):
        rows = [{"epoch": 1, "split": "test", "model": m, "accuracy": a} for m, a in enumerate(accuracies)]
        vars(run)["history"] = History(rows)
        _, ax = new_figure()
        plotting.curves.accuracy_by_window(ax, [run], [6], 1, "test", SEQUENCE[0])
        assert ends_of(ax) == pytest.approx(expected, abs=1e-3)


def test_the_newest_finished_run_of_an_experiment_is_drawn(tiny_results, damaged):
    results, run = tiny_results / "outputs", Run(run_of(tiny_results, "mnist"))
    again = damaged("mnist")
    local = {one.name: one for one in plan("mnist", "quick")}["local"]
    (again / ".hydra" / "hydra.yaml").touch()
    assert Results([results, again], "quick").newest(local)[0].folder == again
    (again / "summary.json").unlink()
    assert Results([results, again], "quick").newest(local)[0].folder == run.folder


def test_the_exact_settings_go_before_ones_own(tiny_results, damaged):
    """Of two finished runs of an experiment, the older one with the settings that are asked for is drawn."""
    own, asked = damaged("mnist"), Run(run_of(tiny_results, "mnist"))
    for name in ("config.yaml", "hydra.yaml"):
        path = own / ".hydra" / name
        path.write_text(path.read_text().replace("  limit: 40", "  limit: 39"))
    results = Results([tiny_results / "outputs", own], "quick", ["data.limit=40"])
    assert results.runs("mnist", "local") == [asked.folder]
    assert Results([own], "quick", ["data.limit=40"]).runs("mnist", "local") == [own]


def test_a_run_as_large_as_the_experiment_goes_before_a_newer_one_that_is_not(tiny_results, damaged):
    smaller, asked = damaged("mnist"), Run(run_of(tiny_results, "mnist"))
    models, epochs = asked.get("nmodels"), asked.get("training.nepochs")
    config = smaller / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace(f"nmodels: {models}", f"nmodels: {models + 1}"))
    (smaller / ".hydra" / "hydra.yaml").touch()
    settings = [f"nmodels={models}", f"training.nepochs={epochs}", "data.limit=40"]
    local = {one.name: one for one in plan("mnist", "quick", settings)}["local"]
    results = [tiny_results / "outputs", smaller]
    assert Results(results, "quick", settings).newest(local)[0].folder == asked.folder
    assert Results([smaller], "quick", settings).newest(local)[0].folder == smaller


def part_of_sweep(sweep, folder, *numbers):
    """A newer sweep of some of its values, whose jobs are numbered from 0."""
    for number, job in enumerate(numbers):
        shutil.copytree(sweep / str(job), folder / str(number))
        (folder / str(number) / ".hydra" / "hydra.yaml").touch()
    return folder


def test_a_newer_sweep_of_fewer_values_does_not_replace_a_whole_one(damaged, tmp_path, capsys):
    whole, settings = damaged("window-mnist"), ("nmodels=2", "data.limit=40", "training.nepochs=2")
    (planned,) = plan("window-mnist", "quick", settings)
    part = part_of_sweep(whole, tmp_path / "part", 2, 3)
    assert Results([whole, part], "quick", settings).runs("window-mnist") == [whole / str(job) for job in range(5)]
    assert "lacks" not in capsys.readouterr().out
    assert Results([part], "quick", settings).runs("window-mnist") == [part / "0", part / "1"]
    assert "window-mnist local lacks 2, 4, 32: python train-biohsic.py --multirun" in capsys.readouterr().out
    assert missing_command(planned, all_runs([part])) == planned.words  # its jobs have other values by these numbers
    begun = part_of_sweep(whole, tmp_path / "begun", 0, 1)
    assert missing_command(planned, all_runs([part, begun]))[-1] == f"hydra.sweep.dir='{begun}'"


def test_a_sweep_over_a_group_is_complete(damaged):
    """Of a group of configs a run says what was chosen; texts with blanks are quoted on the command line."""
    settings = ["data.batchsize=6", "lr_schedule=constant,cosine", "data.root='my images',b"]
    (planned,) = plan("window-mnist", "quick", settings)
    assert planned.jobs == [(a, b) for a in ("constant", "cosine") for b in ("my images", "b")]
    run = Run(damaged("mnist"))
    assert planned.values(run)[0] == run.choices["lr_schedule"] == "constant"


def test_figures_follow_jobs_that_were_skipped(damaged, tmp_path):
    whole, settings = damaged("window-mnist"), ("nmodels=2", "data.limit=40", "training.nepochs=2")
    (planned,) = plan("window-mnist", "quick", settings)
    again = part_of_sweep(whole, tmp_path / "again", 0, 1, 2, 3, 4)
    for job in ("0", "3"):
        shutil.rmtree(again / job / "figures", ignore_errors=True)
        (again / job / "metrics.csv").unlink()
        summary = {"status": "skipped", "finished_in": str(whole / job)}
        (again / job / "summary.json").write_text(json.dumps(summary))
    assert is_complete(planned, all_runs([again]))
    expected = [whole / "0", again / "1", again / "2", whole / "3", again / "4"]
    assert Results([again], "quick", settings).runs("window-mnist") == expected
    assert [run.folder for run in plotting.curves.window_sweep(again)] == expected
    shutil.rmtree(whole)
    assert not is_complete(planned, all_runs([again]))


def test_the_runs_of_a_figure_are_told_apart(tiny_results):
    runs = all_runs([tiny_results / "outputs", tiny_results / "multirun"])
    for planned in (one for name in NAMES for one in plan(name, "quick")):
        claimed = [run for run in runs if planned.matches(run)]
        assert len(claimed) == len(planned.jobs), planned.title
    for planned in (one for name in NAMES for one in plan(name)):
        assert not any(planned.matches(run) for run in runs), planned.title


def test_runs_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="expected one of cifar10, linear, memories, mnist"):
        plan("minst")
    with pytest.raises(UserError, match="expected backprop or local or exact or frozen"):
        Results().runs("mnist", "bp")
    with pytest.raises(UserError, match="expected paper or quick"):
        Results(size="small")


def test_an_experiment_is_its_command():
    backprop, local, exact, frozen = plan("cifar10")
    assert local.config.data.name == "cifar10"
    assert local.config.model.features == [128, 256]
    assert (local.config.hsic.gamma, local.config.optimizer.lr, local.config.training.nepochs) == (50, 5e-5, 50)
    assert (backprop.config.data.batchsize, backprop.config.optimizer.lr) == (16, 5e-4)
    assert (exact.config.hsic.form, frozen.config.rule._target_) == ("exact", "projectlib.rules.Frozen")
    assert backprop.command == "python train-bp.py experiment=cifar10"
    assert plan("cifar10", "quick", ["nmodels=3"])[3].words[1:] == [
        *("experiment=cifar10", "size=quick", "rule=frozen", "nmodels=3")
    ]
    (sweep,), (quick,), (fixed,) = (
        plan("window-mnist", *more) for more in ([], ["quick"], ["paper", ["data.batchsize=2", "seed=1,2"]])
    )
    assert sweep.swept == {"data.batchsize": ["2", "4", "8", "16", "32", "64"]}
    assert (quick.swept["data.batchsize"], fixed.swept) == (sweep.swept["data.batchsize"][:5], {"seed": ["1", "2"]})
    assert sweep.command == "python train-biohsic.py --multirun experiment=window-mnist"


def test_only_what_is_missing_is_run(tiny_results, damaged):
    settings = ("nmodels=2", "data.limit=40", "training.nepochs=2")
    (backprop, run, *_), (sweep,) = plan("mnist", "quick", settings), plan("window-mnist", "quick", settings)
    roots = [tiny_results / "outputs", tiny_results / "multirun"]
    assert is_complete(run, all_runs(roots))
    assert is_complete(sweep, all_runs(roots))
    called = []
    full, longer = plan("mnist", "quick")[0], plan("mnist", "quick", (*settings[:2], "training.nepochs=9"))[1]
    planned = [run, sweep, backprop, full, longer]
    failed = run_missing(planned, roots, lambda words: called.append(words) or len(called) - 1)
    assert called == [full.words, longer.words]
    assert failed == ["mnist local"]

    cut = damaged("mnist")
    (cut / "summary.json").unlink()
    assert missing_command(run, all_runs([cut])) == ["train-biohsic.py", f"resume={cut}", "training.nepochs=2"]
    moved = replace(run, settings=(*run.settings, "logger=tensorboard", "device=cpu"))
    assert missing_command(moved, all_runs([cut]))[3:] == ["logger=tensorboard", "device=cpu"]
    cut = damaged("window-mnist")
    (cut / "3" / "summary.json").unlink()
    assert not is_complete(sweep, all_runs([cut]))
    assert missing_command(sweep, all_runs([cut]))[-1] == f"hydra.sweep.dir='{cut}'"
    with pytest.raises(UserError, match="was stopped"):
        run_missing([full], [], lambda words: 75)
