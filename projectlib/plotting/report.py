"""One HTML page that compares runs, in one file that needs no other.

    python -m projectlib.plotting.report outputs/train-biohsic/2026-11-24/* [-o report.html]

Arguments are run folders, folders of runs such as a sweep, or globs.  The first run is what the others are compared
with, model by model that started from the same seed.
"""

import argparse
import base64
import html
import io
import string
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from projectlib.errors import UserError
from projectlib.plotting.page import new_figure
from projectlib.plotting.style import SEQUENCE, Look, band, whole_epochs
from projectlib.runs.files import write_text
from projectlib.runs.folder import Run, open_runs
from projectlib.runs.history import mean_and_sd
from projectlib.sweeps.jobs import read_summary, settings

LEVEL = 0.95  # of the intervals


class Metric(NamedTuple):
    """A column of metrics.csv on one split.  title: with its unit.  scale: from the file to that unit."""

    split: str
    name: str
    title: str
    scale: float


METRICS = (
    Metric("test", "accuracy", "test accuracy (%)", 100),
    Metric("validation", "accuracy", "validation accuracy (%)", 100),
    Metric("train", "accuracy", "training accuracy (%)", 100),
    Metric("test", "nmse_before", "error on samples never learnt (% of variance)", 100),
    Metric("train", "nmse_before", "error before learning a window (% of variance)", 100),
    Metric("train", "nmse_after", "error after learning a window (% of variance)", 100),
)


class Interval(NamedTuple):
    """Mean of paired differences and the ends of its interval, None for fewer than two pairs."""

    pairs: int
    mean: float | None
    low: float | None
    high: float | None


def paired_interval(values: dict[int, float], reference: dict[int, float], level: float = LEVEL) -> Interval:
    """Student's t interval of values - reference over the seeds that both have.  values, reference: by seed."""
    shared = sorted(values.keys() & reference.keys())
    differences = np.array([values[seed] - reference[seed] for seed in shared])
    if not shared:
        return Interval(0, None, None, None)
    mean = float(differences.mean())
    if len(shared) < 2:
        return Interval(1, mean, None, None)
    half = float(stats.t.ppf((1 + level) / 2, len(shared) - 1) * differences.std(ddof=1) / np.sqrt(len(shared)))
    return Interval(len(shared), mean, mean - half, mean + half)


def final(run: Run, metric: Metric) -> dict[int, float]:
    """A metric after the last epoch of every model, by seed; empty where it was not measured."""
    rows = [row for row in run.history.rows if row["split"] == metric.split and metric.name in row]
    last = max((row["epoch"] for row in rows), default=0)
    seed = run.get("seed", 0)
    return {seed + row["model"]: metric.scale * row[metric.name] for row in rows if row["epoch"] == last}


def names(count: int) -> list[str]:
    """A, B, ..., Z, AA, AB, ..."""
    letters = string.ascii_uppercase
    return [*letters, *("".join(pair) for pair in product(letters, letters))][:count]


def report(runs: Sequence[Run]) -> str:
    """The page.  Raises UserError for a run without metrics, or settings that cannot be read."""
    labels = names(len(runs))
    metrics = [metric for metric in METRICS if any(final(run, metric) for run in runs)]
    body = "".join(
        [
            section("Runs", runs_table(runs, labels)),
            section("Settings that differ", settings_table(runs, labels)),
            section("After the last epoch, mean ± sd over models", final_table(runs, labels, metrics)),
            *(
                section(f"Difference from {labels[0]}: {metric.title}", paired_table(runs, labels, metric))
                for metric in metrics
                if len(runs) > 1 and metric.split != "train"
            ),
            section("Over epochs", "".join(picture(runs, labels, metric) for metric in metrics)),
        ]
    )
    return PAGE.substitute(body=body, count=len(runs))


def runs_table(runs: Sequence[Run], labels: Sequence[str]) -> str:
    rows = []
    for label, run in zip(labels, runs, strict=True):
        summary = read_summary(run.folder)
        speed, seconds = summary.get("steps_per_second"), summary.get("wall_seconds")
        rows.append(
            [
                label,
                f"{run.script}.py",
                " ".join(run.overrides) or "defaults",
                str(summary.get("status", "not ended")),
                f"{run.history.last_epoch} of {run.get('training.nepochs', '?')}",
                str(run.get("nmodels", "?")),
                "" if seconds is None else f"{seconds:.0f}",
                "" if speed is None else f"{speed:.0f}",
                str(summary.get("device", "")),
                str(run.folder),
            ]
        )
    heads = "run,script,typed,status,epochs,models,seconds,steps/s,device,folder"
    return table(heads.split(","), rows)


def settings_table(runs: Sequence[Run], labels: Sequence[str]) -> str:
    all_settings = [{"script": run.script, **settings(run.settings)} for run in runs]
    keys = dict.fromkeys(key for values in all_settings for key in values)
    rows = [[key, *(str(values.get(key, "—")) for values in all_settings)] for key in keys]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    return table(["setting", *labels], differing) if differing else "<p>None.</p>"


def final_table(runs: Sequence[Run], labels: Sequence[str], metrics: Sequence[Metric]) -> str:
    rows = []
    for label, run in zip(labels, runs, strict=True):
        values = [[*final(run, metric).values()] for metric in metrics]
        rows.append([label, *(show(*mean_and_sd(v)) if v else "—" for v in values)])
    return table(["run", *(metric.title for metric in metrics)], rows)


def show(mean: float, sd: float | None) -> str:
    return f"{mean:.4g}" if sd is None else f"{mean:.4g}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{sd:.2g}"


def paired_table(runs: Sequence[Run], labels: Sequence[str], metric: Metric) -> str:
    reference, rows = final(runs[0], metric), []
    for label, run in zip(labels[1:], runs[1:], strict=True):
        pairs, mean, low, high = paired_interval(final(run, metric), reference)
        interval = "needs two shared seeds" if low is None else f"{low:+.3g} to {high:+.3g}"
        verdict = "" if low is None else "differs" if low > 0 or high < 0 else "0 lies within"
        difference = "—" if mean is None else f"{mean:+.3g}"
        rows.append([f"{label} minus {labels[0]}", str(pairs), difference, interval, verdict])
    explained = "<p>Student's t over the differences between models that started from the same seed.</p>"
    return table(["difference", "shared seeds", "mean", f"{LEVEL:.0%} interval", ""], rows) + explained


def picture(runs: Sequence[Run], labels: Sequence[str], metric: Metric) -> str:
    """A metric over epochs as an image within the page."""
    figure, axis = new_figure()
    for index, (label, run) in enumerate(zip(labels, runs, strict=True)):
        if final(run, metric):
            epochs, values = run.curve(metric.split, metric.name)
            band(axis, epochs, metric.scale * values, label, look(index))
    finish(axis, metric.title)
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    encoded = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(metric.title)} over epochs" src="data:image/svg+xml;base64,{encoded}">'


def look(index: int) -> Look:
    """A look for any number of runs: the markers go round again, shifted, with the colours."""
    base, other = SEQUENCE[index % len(SEQUENCE)], SEQUENCE[(index + index // len(SEQUENCE)) % len(SEQUENCE)]
    return Look(base.color, base.linestyle, other.marker)


def finish(axis: Axes, title: str) -> None:
    axis.set_ylabel(title, fontsize="small")
    whole_epochs(axis)
    axis.legend(fontsize="x-small", ncols=1 + len(axis.lines) // 8)


def section(title: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{content}\n"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table; all text is escaped.  The first cell of a row is its head."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(table_row(row) for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</thead><tbody>{body}</tbody></table></div>'


def table_row(cells: Iterable[str]) -> str:
    first, *others = map(html.escape, cells)
    return f"<tr><th>{first}</th>{''.join(f'<td>{text}</td>' for text in others)}</tr>"


PAGE = string.Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Comparison of $count runs</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222; }
  h1 { font-size: 1.5em; } h2 { font-size: 1.1em; margin: 2em 0 .5em; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-size: .9em; font-variant-numeric: tabular-nums; }
  th, td { padding: .25em .8em .25em 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
  thead th { border-bottom: 2px solid #888; }
  img { width: 360px; max-width: 100%; margin: 0 1em 1em 0; }
</style>
<h1>Comparison of $count runs</h1>
$body
</html>
""")


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m projectlib.plotting.report", description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, folders of runs, or globs")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="default: report.html")
    arguments = parser.parse_args(words)
    text = report(open_runs(arguments.runs))
    try:
        write_text(arguments.output, text)
    except OSError as error:
        raise UserError(f"cannot write {arguments.output}: {error.strerror}") from None
    print(arguments.output)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
