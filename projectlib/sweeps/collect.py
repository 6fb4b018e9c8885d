"""Gather the runs of any number of sweeps: one tidy CSV, one row per run, and a table over seeds.

    python -m projectlib.sweeps.collect multirun/train-biohsic/2026-11-24 [more folders] [-o runs.csv]

Reads names, configs and summaries only, and imports no torch.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from projectlib.config.settings import flatten
from projectlib.errors import UserError, system_problem
from projectlib.runs.files import write_text
from projectlib.runs.folder import read_settings
from projectlib.runs.history import Statistics, format_mean
from projectlib.runs.run import Run, find_runs
from projectlib.sweeps.jobs import as_text, with_effect
from projectlib.values import COUNT, problem

Row = dict[str, Any]

SEEDS = ("seed", "data.seed")
MEASURED = ("wall_seconds", "steps_per_second", "device")
WIDTH = 120  # columns of a terminal, beyond which a table goes on below
JUDGED_BY = ("accuracy", "nmse_after", "loss")  # the table has the first of these that was measured


def collect(roots: Iterable[Path]) -> list[Row]:
    """All runs below the roots, each once; one that cannot be read is a row of status "damaged" with its error."""
    rows = (read_run(run) for root in roots for run in find_runs(root))
    return [*{os.path.realpath(row["folder"]): row for row in rows}.values()]


def read_run(run: Run) -> Row:
    """One run: folder, status, settings, and what was measured so far."""
    try:
        return row_of(run.trained())  # of a job that was skipped, the run that it stands for
    except (UserError, RecursionError) as error:
        return {"folder": str(run.folder), "status": "damaged", "error": str(error)}


def row_of(run: Run) -> Row:
    status, error = run.status
    plain = with_effect(flatten(read_settings(run.folder, "config.yaml")))
    own = {key: v for key, v in plain.items() if "${" not in str(v) and not is_metric(key)}  # a reference says it again
    if wrong := problem(own.get("nmodels", 1), COUNT, "nmodels"):
        raise UserError(f"{run.folder}: {wrong}")
    metrics = run.summary.get("metrics")
    if metrics is None:
        metrics = run.history.summary() if run.has_metrics else {}
    best = run.summary.get("best", {})  # without the test set's own: an epoch that it chose is no result
    return {
        **own,
        "folder": str(run.folder),
        "status": status,
        **metric_columns(metrics),
        **metric_columns({split: value for split, value in best.items() if split != "test"}, "best_"),
        **{key: run.summary.get(key) for key in MEASURED},
        "error": error,
    }


def metric_columns(metrics: Statistics, prefix: str = "") -> Row:
    """``{split: {name: {"mean", "sd"}}}`` as ``split_name`` and ``split_name_sd``."""
    row = {}
    for split, values in metrics.items():
        for name, value in values.items():
            row[f"{prefix}{split}_{name}"], row[f"{prefix}{split}_{name}_sd"] = value["mean"], value["sd"]
    return row


def is_metric(name: str) -> bool:
    return name.startswith(("train_", "validation_", "test_", "memory_", "best_"))


def as_frame(rows: list[Row]) -> pd.DataFrame:
    """All cells as text, empty where a run does not have them."""
    return pd.DataFrame([{name: as_text(value) for name, value in row.items()} for row in rows]).fillna("")


def varying(cells: pd.DataFrame) -> list[str]:
    """The settings, but for seeds, that are not the same in all rows whose settings can be read."""
    others = {"folder", "status", "error", "nmodels", *SEEDS, *MEASURED}
    settings = cells.loc[cells["status"] != "damaged", [n for n in cells if n not in others and not is_metric(n)]]
    return [*settings.columns[settings.nunique() > 1]]


def to_csv(rows: list[Row]) -> str:
    """Tidy: folder, status, the settings that vary, seeds, metrics, time and error."""
    cells = as_frame([{name: spreadsheet_safe(v) if isinstance(v, str) else v for name, v in r.items()} for r in rows])
    metrics = [name for name in cells if is_metric(name)]
    names = ["folder", "status", *varying(cells), *SEEDS, "nmodels", *metrics, *MEASURED, "error"]
    table = cells.reindex(columns=[name for name in names if name in cells or name not in SEEDS], fill_value="")
    return table.rename(columns=spreadsheet_safe).to_csv(index=False, lineterminator="\n")


def printable(text: str) -> str:
    """Text in which control characters, which command a terminal, are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def spreadsheet_safe(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{printable(text)}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else printable(text)


def pool(groups: Iterable[tuple[int, float, float | None]]) -> tuple[float, float | None]:
    """Mean and sample sd of all members of groups, each given as (size, mean, sd); sd None for one member."""
    groups = list(groups)
    total = sum(n for n, _, _ in groups)
    mean = sum(n * m for n, m, _ in groups) / total
    squares = sum((n - 1) * (sd or 0.0) ** 2 + n * (m - mean) ** 2 for n, m, sd in groups)
    return mean, (squares / (total - 1)) ** 0.5 if total > 1 else None


def table(rows: list[Row]) -> pd.DataFrame:
    """Mean ± sd over the models of all finished runs that differ in nothing but seeds, accuracies in percent.

    What they have reached comes first, then their settings.
    """
    names = varying(as_frame(rows))
    finished = [row for row in rows if row["status"] == "finished"]
    metrics = judged_metrics(finished)
    groups: dict[tuple, list[Row]] = {}
    for row in finished:
        groups.setdefault(tuple(as_text(row.get(name)) for name in names), []).append(row)
    return pd.DataFrame(
        [
            {
                **{name: pooled(group, name) for name in metrics},
                "runs": str(len(group)),
                "models": count_models(group),
                **{name: as_text(shortened(group[0].get(name))) for name in names},
            }
            for group in groups.values()
        ],
        columns=[*metrics, "runs", "models", *names],
    )


def count_models(group: list[Row]) -> str:
    """How many models a group has; where runs share seeds, also how many different weights they began with."""
    sizes = [row.get("nmodels", 1) for row in group]
    firsts = [row["seed"] for row in group if type(row.get("seed")) is int]
    distinct = {seed + member for seed, size in zip(firsts, sizes, strict=False) for member in range(size)}
    is_known = len(firsts) == len(group)
    return f"{sum(sizes)} from {len(distinct)} seeds" if is_known and len(distinct) < sum(sizes) else str(sum(sizes))


def judged_metrics(rows: list[Row]) -> list[str]:
    """The columns of the table's metric: at the end in every split, and at its best where it was not trained."""
    names = [name for name in as_frame(rows) if is_metric(name) and not name.startswith("best_train")]
    names.sort(key=lambda name: (name.startswith("best"), name.startswith("train")))  # what is asked for comes first
    return next((found for metric in JUDGED_BY if (found := [name for name in names if name.endswith(metric)])), [])


def pooled(group: list[Row], name: str) -> str:
    """``mean ± sd`` over the models of a group; empty where none was measured."""
    sizes = [(row.get("nmodels", 1), row[name], row.get(f"{name}_sd")) for row in group if row.get(name) is not None]
    return format_mean(*pool(sizes), 100 if name.endswith("accuracy") else 1) if sizes else ""


def shortened(value: Any) -> Any:
    """Numbers to four digits, for reading."""
    if isinstance(value, list):
        return [shortened(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m projectlib.sweeps.collect", description="Gather the runs of any number of sweeps."
    )
    parser.add_argument("folder", nargs="+", type=Path, help="a sweep, a run, or any folder above some")
    parser.add_argument("-o", "--output", type=Path, help="also write every run as a row of this CSV")
    options = parser.parse_args(arguments)
    for folder in options.folder:
        if not folder.is_dir():
            sys.exit(f"error: {folder} is no folder; expected one that holds run folders")
    rows = collect(options.folder)
    if not rows:
        where = ", ".join(map(str, options.folder))
        sys.exit(f"error: no run folder in {where}; expected folders with .hydra/ in them")
    if options.output:
        try:
            write_text(options.output, to_csv(rows))
        except OSError as error:
            sys.exit(f"error: {system_problem(error, options.output)}")
    if not (means := table(rows)).empty:
        print(means.map(printable).rename(columns=printable).to_string(index=False, line_width=WIDTH))
    counts = Counter(row["status"] for row in rows)
    print(printable(f"{len(rows)} runs: " + ", ".join(f"{number} {status}" for status, number in counts.most_common())))
    for row in (row for row in rows if row["error"]):
        print(printable(f"{row['status']} {row['folder']}: {row['error']}"))


if __name__ == "__main__":
    main()
