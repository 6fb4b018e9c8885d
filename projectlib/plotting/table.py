"""One table of all rules on one footing, written from run folders: a row per rule, a column per data set.

    python -m projectlib.plotting.table               docs/table.md and docs/table.png from outputs/ and multirun/
    python -m projectlib.plotting.table --size quick --into build

Its runs are those of the experiments ``table/...``; ``make table`` runs what is missing before.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from projectlib.config.messages import MISTAKES, explained
from projectlib.config.plugins import build
from projectlib.config.settings import EXTENT
from projectlib.config.validation import MEMORIES
from projectlib.errors import UserError, system_problem
from projectlib.plotting import depth
from projectlib.plotting.memories import kept, last_accuracy
from projectlib.plotting.page import grid, new_figure, save
from projectlib.plotting.style import SEQUENCE, kind_of, legend, numbered, styled
from projectlib.runs.history import format_mean
from projectlib.runs.run import Run
from projectlib.sweeps.experiments import ROOT, PlannedRun, Results, plan

COLUMNS = {
    "mnist": "MNIST",
    "mnist-searched": "MNIST, all searched",
    "fashion_mnist": "Fashion-MNIST",
    "digits": "digits",
    "xor": "XOR",
    "cifar10": "CIFAR-10",
}
"""Experiments ``table/<key>``."""

ROWS = {
    "window": "the paper's window, recomputed",
    "two-point": "window of 2",
    **{name: kind_of(name).title for name in MEMORIES},
    "contrastive": "supervised contrastive",
    **{name: kind_of(name).title for name in ("similarity-matching", "phsic", "hsic", "local-classifier")},
    "local-classifier-random": "local classifiers, random feedback",
    **{name: kind_of(name).title for name in ("direct-feedback-alignment", "feedback-alignment", "frozen", "backprop")},
    "backprop-one": "back-propagation, one sample at a time",
}
"""Titles of the runs of those experiments, in the order of the table."""

LOGGED = tuple(key for key in EXTENT if key.startswith("training.log"))

MARKERS = "oXs^Dv*Pd<>hxpH8+"  # one per row; of one colour (every sixth) far from alike

INTRODUCTION = """# One table

`make table` writes this page from run folders (hours on two cores; [what it
needs](index.md#what-to-run-for-a-figure)); no number is typed by hand. Within a column all rules have the same
network, data, epochs and seeds. On MNIST, Fashion-MNIST and digits one update uses 32 samples, except for the window
rules (one update per window of 6 or 2) and back-propagation one sample at a time. On XOR there is an update at every
time step (of 64 samples for the paper's window, frozen layers, back-propagation and rules that compare a batch, of
two for the window of 2, else of one sample), on CIFAR-10 one per 16 images (the windows: one per window of 6 or 2;
back-propagation one image at a time). Test accuracy after the last epoch, mean ± sd over models.

Settings were chosen on a validation split of the column's own data. *MNIST, all searched* is the fairest column: all
rules but the window of 2 had 64 trials of their own settings, rates, betas and the scale of images at once ([what was
searched](memories.md#all-settings-at-once)). In the other columns: 16 trials a rule on MNIST, Fashion-MNIST and
digits (of one rate for back-propagation and frozen layers, of two to four settings for the others), 24 on XOR (class
means: and some more, on three draws of the data; remembered and baselines: of fewer models and epochs), 6 on CIFAR-10
(7 or 8 of six rules, 12 of local classifiers, 4 of back-propagation one image at a time; the delta memory's blocks
and rates had earlier trials). [Memories](memories.md), [baselines](baselines.md) and [images](images.md) have the
commands, and say what they found. In these other columns the windows have the published settings on MNIST, XOR and
CIFAR-10, on Fashion-MNIST those of MNIST, on digits MNIST's with a rate of 1e-3; their rate is constant, and their
images are not scaled to [0, 1]. Supervised contrastive on MNIST and CIFAR-10 has the settings of the remembered
window, and random feedback on MNIST, XOR and CIFAR-10 those of local classifiers. On XOR all but the windows, frozen
layers, batch HSIC and back-propagation have a cosine decay. In these columns the memories' betas, horizons and scale
of inputs come from early experiments that had looked at test accuracy. All rows are with AdamW ([plain
SGD](memories.md#without-the-optimizers-memory)). CIFAR-10 is of JPEG images.

*Transported* is what has to reach a hidden layer besides its own input and activity. Errors that a small matrix beside
the layer sends back through its own weights (the delta memory, class means, local classifiers without random feedback)
are not counted. *Numbers kept* are those of a model's memories, windows, replay, classifiers and feedback, not its
membranes, its optimizer's moments or the gradients that an update of several samples sums ([glossary](glossary.md)).
Seconds are for all models together, from the start of a run to its end but for compilation: a second or two of
loading, checkpoints and figure are among them. Most runs shared their cores, so compare orders of magnitude only
([speed](speed.md) has times of idle cores). A dash: not run.
"""


def table(results: Results) -> pd.DataFrame:
    """A row per run: column, rule (keys of ``COLUMNS`` and ``ROWS``), accuracy, sd (%), models, epochs, seconds, kept,
    device, transports and command.  Raises UserError where there is no run at all.
    """
    found = [
        (column, planned, run)
        for column in COLUMNS
        for planned in plan(f"table/{column}", results.size, results.settings)
        for run in results.newest(planned, partial(is_made_by, planned))
    ]
    if not found:
        raise UserError(f"no finished run of a table in {results.roots}; expected some: make table")
    return pd.DataFrame([row(*one) for one in found])


def is_made_by(planned: PlannedRun, run: Run) -> bool:
    """Whether a run is finished, and what the command in its row would make."""
    return run.is_finished and planned.has_settings(run, free=LOGGED)


def row(column: str, planned: PlannedRun, run: Run) -> dict:
    accuracy, sd = last_accuracy(run)
    seconds = run.summary["wall_seconds"] - run.summary["compile_seconds"]
    return {
        "column": column,
        "rule": planned.name,
        "accuracy": accuracy,
        "sd": sd,
        "models": run.get("nmodels"),
        "epochs": run.history.last_epoch,
        "seconds": seconds,
        "kept": kept(run),
        "device": run.summary["device"],
        "transports": build(run.config.rule).transports,
        "command": planned.command,
    }


def markdown(rows: pd.DataFrame) -> str:
    """The page: the table of accuracies, and of each column what its runs cost and which commands made them."""
    rows = rows.assign(
        shown=[
            format_mean(accuracy, sd if models > 1 else None, unit=" %")
            for accuracy, sd, models in rows[["accuracy", "sd", "models"]].values
        ],
        title=rows.rule.map(ROWS),
    )
    wide = rows.pivot(index="rule", columns="column", values="shown")
    wide = (
        wide.reindex(index=[name for name in ROWS if name in wide.index], columns=[*COLUMNS]).astype(object).fillna("-")
    )
    transports = rows.drop_duplicates("rule").set_index("rule").transports
    lines = [[ROWS[name], transports[name], *(wide.loc[name, column] for column in COLUMNS)] for name in wide.index]
    parts = [
        INTRODUCTION,
        grid(["rule", "transported", *COLUMNS.values()], lines),
        "![Accuracy against time](table.png)\n",
    ]
    for column, title in COLUMNS.items():
        of_column: pd.DataFrame = rows.loc[rows.column == column]
        if of_column.empty:
            continue
        parts.append(f"## {title}\n\n{extent(of_column)}, device {' and '.join(sorted(set(of_column.device)))}.\n")
        costs = of_column.set_index("rule").reindex([name for name in ROWS if name in set(of_column.rule)])
        cells = [
            [one["title"], one["shown"], f"{one['seconds']:,.0f}", f"{one['kept']:,.0f}", f"`{one['command']}`"]
            for one in costs.to_dict("records")
        ]
        parts.append(grid(["rule", "test accuracy", "seconds", "numbers kept", "command"], cells))
    return "\n".join(parts)


def extent(rows: pd.DataFrame) -> str:
    """How many models were trained for how long, e.g. ``5 models, 25 epochs``: all numbers, where rows differ."""
    return f"{numbered('model', rows.models)}, {numbered('epoch', rows.epochs)}"


def accuracy_by_time(rows: pd.DataFrame, ax: Axes) -> None:
    """Test accuracy of the first column against the seconds that a model takes to train, one marker per rule."""
    first: pd.DataFrame = rows.loc[rows.column == rows.column.iloc[0]]
    for one in first.to_dict("records"):
        place = [*ROWS].index(one["rule"])
        color, marker = SEQUENCE[place % len(SEQUENCE)].color, MARKERS[place % len(MARKERS)]
        time, accuracy, sd = one["seconds"] / one["models"], one["accuracy"], one["sd"]
        look = {"color": color, "marker": marker, "markersize": 6, "linestyle": "none", "capsize": 2}
        ax.errorbar(time, accuracy, sd, label=ROWS[one["rule"]], **look)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.set(xlabel="seconds a model", ylabel="test accuracy (%)")
    ax.set_title(f"{COLUMNS[first.column.iloc[0]]}, {extent(first)}")
    legend(ax)


@styled()
def write(results: Results, folder: Path) -> Path:
    """Write ``table.md`` and its figures, that of depth where there are such runs; returns the path of the page."""
    rows = table(results)
    figure, ax = new_figure(width=6.5, height=4)
    accuracy_by_time(rows, ax)
    save(figure, folder, "table", types=["png"])
    path = folder / "table.md"
    parts = [markdown(rows)]
    if results.size == "quick":
        parts.insert(0, "> Quick runs, of digits or of few points and epochs: no number here means anything.\n")
    deeper = plan("table/depth", results.size, results.settings)
    if found := [run.folder for one in deeper for run in results.newest(one, partial(is_made_by, one))]:
        parts.append(depth.section(found, folder))
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m projectlib.plotting.table", description="Write the table.")
    parser.add_argument("--size", choices=("paper", "quick"), default="paper")
    parser.add_argument("--into", type=Path, default=ROOT / "docs", help="folder of table.md and table.png")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="that the runs were made with")
    options = parser.parse_args(words)
    print(f"written: {write(Results(size=options.size, settings=options.settings), options.into)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MISTAKES as error:
        sys.exit(f"error: {explained(error, 'train-biohsic')}")
    except OSError as error:
        sys.exit(f"error: cannot write {system_problem(error, 'the table')}")
