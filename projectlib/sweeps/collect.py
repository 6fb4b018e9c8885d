"""Gather the runs of any number of sweeps: one tidy CSV, one row a run, and a table over seeds.

    python -m projectlib.sweeps.collect multirun/train-biohsic/2026-11-24 [more folders] [-o runs.csv]

Reads names, configs and summaries only, and imports no torch.
"""

import argparse
import csv
import fcntl
import io
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from projectlib.runs.files import write_text
from projectlib.sweeps.jobs import as_text, read_summary, settings

Row = dict[str, Any]

SEEDS = ("seed", "data.seed")
MEASURED = ("wall_seconds", "steps_per_second", "device")
SHOWN = ("accuracy", "nmse_after", "loss")  # the table has the first of these that was measured
NO_SUMMARY = "it ended without a word (killed, or the machine went down): issue the sweep again in its folder"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the compiled one reads ten times as fast


def find_runs(root: Path) -> Iterator[Path]:
    """Every run folder at or below ``root``, in natural order: 2 before 10."""
    with os.scandir(root) as entries:
        folders = {entry.name for entry in entries if entry.is_dir()}
    if ".hydra" in folders:
        yield Path(root)
        return
    for name in sorted((name for name in folders if not name.startswith(".")), key=natural):
        yield from find_runs(Path(root, name))


def natural(name: str) -> tuple[bool, int, str]:
    """Sorts numbers by value and before words."""
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)


def read_run(folder: Path) -> Row:
    """One run: folder, status, settings, and what was measured so far."""
    summary = read_summary(folder)
    if summary.get("status") == "skipped":  # the same run, finished in an earlier sweep
        return read_run(Path(summary["finished_in"]))
    config = read_config(folder)
    status, error = status_of(folder, summary)
    metrics, best = summary.get("metrics"), summary.get("best", {})
    if metrics is None:
        metrics = last_metrics(folder / "metrics.csv")
    return {
        "folder": str(folder),
        "status": status,
        **{key: value for key, value in settings(config).items() if "${" not in str(value)},  # the rest says it again
        **columns(metrics),
        **columns(best, "best_"),
        **{key: summary.get(key) for key in MEASURED},
        "error": error,
    }


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a run as it wrote them; empty where they cannot be read."""
    try:
        with open(folder / ".hydra" / "config.yaml", "rb") as file:
            config = yaml.load(file, LOADER)
    except (OSError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def status_of(folder: Path, summary: dict[str, Any]) -> tuple[str, str]:
    """finished, pruned, evaluated, failed, interrupted or running, and the error's first line."""
    status = summary.get("status")
    if status in ("finished", "pruned", "evaluated"):
        return status, ""
    if is_written(folder):
        return "running", ""
    if status is None:
        logged = last_error(folder)
        return ("failed", logged) if logged else ("interrupted", NO_SUMMARY)
    return status, (summary.get("error") or "").split("\n")[0]


def is_written(folder: Path) -> bool:
    """Whether a process holds the lock of a run folder; without a lock file it has not begun."""
    try:
        with open(folder / ".lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def last_error(folder: Path) -> str:
    """The last error in the logs of a run that failed before it could begin; empty where there is none."""
    lines = [line for path in folder.glob("*.log") for line in path.read_text(errors="replace").splitlines()]
    return next((line.split("[ERROR] - ")[1] for line in reversed(lines) if "[ERROR] - " in line), "")


def columns(metrics: dict[str, Any], prefix: str = "") -> Row:
    """``{split: {name: {"mean", "sd"}}}`` as ``split_name`` and ``split_name_sd``."""
    row = {}
    for split, values in metrics.items():
        for name, value in values.items():
            row[f"{prefix}{split}_{name}"], row[f"{prefix}{split}_{name}_sd"] = value["mean"], value["sd"]
    return row


def last_metrics(path: Path) -> dict[str, Any]:
    """Mean and sd over models in the last epoch of a metrics.csv, as a summary has them."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeError):
        return {}
    rows = [row for row in rows if row["epoch"] == rows[-1]["epoch"]]
    metrics: dict[str, Any] = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        of_split = [row for row in rows if row["split"] == split]
        for name in (name for name in of_split[0] if name not in ("epoch", "split", "model") and of_split[0][name]):
            mean, variance = pool((1, float(row[name]), None) for row in of_split)
            metrics.setdefault(split, {})[name] = {"mean": mean, "sd": None if variance is None else variance**0.5}
    return metrics


def pool(groups: Iterable[tuple[int, float, float | None]]) -> tuple[float, float | None]:
    """Mean and sample variance of all members of groups, each given as (size, mean, sd); variance None for one."""
    groups = list(groups)
    total = sum(n for n, _, _ in groups)
    mean = sum(n * m for n, m, _ in groups) / total
    squares = sum((n - 1) * (sd or 0.0) ** 2 + n * (m - mean) ** 2 for n, m, sd in groups)
    return mean, squares / (total - 1) if total > 1 else None


def varying(rows: list[Row]) -> list[str]:
    """The settings that are not the same in all rows, seeds left out."""
    others = {"folder", "status", "error", "nmodels", *SEEDS, *MEASURED}
    names = dict.fromkeys(name for row in rows for name in row if name not in others and not is_metric(name))
    return [name for name in names if len({as_text(row.get(name)) for row in rows}) > 1]


def is_metric(name: str) -> bool:
    return name.startswith(("train_", "validation_", "test_", "best_"))


def collect(roots: Iterable[Path]) -> list[Row]:
    """All runs below the roots, each once."""
    rows = (read_run(folder) for root in roots for folder in find_runs(root))
    return list({os.path.realpath(row["folder"]): row for row in rows}.values())


def to_csv(rows: list[Row]) -> str:
    """Tidy: folder, status, the settings that vary, seeds, metrics, time and error."""
    metrics = dict.fromkeys(name for row in rows for name in row if is_metric(name))
    seeds = [name for name in SEEDS if any(name in row for row in rows)]
    names = ["folder", "status", *varying(rows), *seeds, "nmodels", *metrics, *MEASURED, "error"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([as_text(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


def table(rows: list[Row]) -> list[list[str]]:
    """Mean ± sd over the models of all finished runs that differ in nothing but seeds; a header first."""
    finished = [row for row in rows if row["status"] == "finished"]
    names = varying(rows)
    metrics = shown_metrics(finished)
    groups: dict[tuple, list[Row]] = {}
    for row in finished:
        groups.setdefault(tuple(as_text(row.get(name)) for name in names), []).append(row)
    lines = [[*names, "runs", "models", *metrics]]
    for group in groups.values():
        models = sum(row.get("nmodels") or 1 for row in group)
        cells = [as_text(shortened(group[0].get(name))) for name in names]
        lines.append([*cells, str(len(group)), str(models), *(mean_and_sd(group, name) for name in metrics)])
    return lines


def shown_metrics(rows: list[Row]) -> list[str]:
    """The columns of the table's metric: at the end in every split, and at its best where it was not trained."""
    names = dict.fromkeys(name for row in rows for name in row if is_metric(name) and not name.startswith("best_train"))
    return next((chosen for metric in SHOWN if (chosen := [name for name in names if name.endswith(metric)])), [])


def shortened(value: Any) -> Any:
    """Numbers to four digits, for reading."""
    if isinstance(value, list):
        return [shortened(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def mean_and_sd(group: list[Row], name: str) -> str:
    """``mean ± sd`` over the models of a group; accuracies in percent."""
    sizes = [(row.get("nmodels") or 1, row[name], row.get(f"{name}_sd")) for row in group if row.get(name) is not None]
    if not sizes:
        return ""
    scale = 100 if name.endswith("accuracy") else 1
    mean, variance = pool(sizes)
    return f"{scale * mean:.2f}" + ("" if variance is None else f" ± {scale * math.sqrt(variance):.2f}")


def align(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:>{w}}" for cell, w in zip(line, widths, strict=True)) for line in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m projectlib.sweeps.collect", description=__doc__.split("\n")[0])
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
        write_text(options.output, to_csv(rows))
    print(align(table(rows)))
    counts = Counter(row["status"] for row in rows)
    print(f"\n{len(rows)} runs: " + ", ".join(f"{number} {status}" for status, number in counts.most_common()))
    for row in rows:
        if row["error"]:
            print(f"{row['status']} {row['folder']}: {row['error']}")


if __name__ == "__main__":
    main()
