"""One HTML page that compares runs, in one file that needs no other.

    python -m projectlib.plotting.report outputs/train-biohsic/2026-11-24/* [-o report.html]

Arguments are run folders, folders of runs such as a sweep, or globs.  The first run is what the others are compared
with, model by model that started from the same seed.
"""

import argparse
import base64
import io
import math
import string
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment
from scipy import stats

from projectlib.errors import UserError
from projectlib.plotting.curves import leave_out_epoch_0
from projectlib.plotting.page import new_figure
from projectlib.plotting.style import PERCENT, SEQUENCE, band, legend, mixed_look, styled, whole_epochs
from projectlib.runs.files import write_text
from projectlib.runs.history import format_mean, mean_and_sd
from projectlib.runs.run import Run, open_runs
from projectlib.sweeps.collect import printable
from projectlib.sweeps.jobs import with_effect

LEVEL = 0.95  # of the intervals
LABEL = 32  # letters of a legend's line
LEFT_OUT = "left out"  # a run that failed before its first epoch, or that only scored another


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


def paired_interval(values: dict[int, float], reference: dict[int, float]) -> Interval:
    """Student's t interval of values - reference over the seeds that both have.  values, reference: by seed."""
    shared = sorted(values.keys() & reference.keys())
    differences = np.array([values[seed] - reference[seed] for seed in shared])
    if not shared:
        return Interval(0, None, None, None)
    mean = float(differences.mean())
    if len(shared) < 2:
        return Interval(1, mean, None, None)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(shared) - 1) * differences.std(ddof=1) / np.sqrt(len(shared)))
    return Interval(len(shared), mean, mean - half, mean + half)


class Compared(NamedTuple):
    """A run under the letter that stands for it.  name: what it has been given that not all have."""

    label: str
    run: Run
    name: str = ""

    @property
    def title(self) -> str:
        return f"{self.label}: {self.name}"


class Table(NamedTuple):
    """The first cell of each row is its head.  note: what has to be known to read it."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def report(runs: Sequence[Run]) -> str:
    """The page.  A run that cannot be read is listed with its error, and compared with nothing."""
    labelled = [*zip(letters(len(runs)), runs, strict=True)]
    errors = {run.folder: problem(run) for run in runs}
    readable = named([(label, run.trained()) for label, run in labelled if errors[run.folder] is None])
    metrics = [metric for metric in METRICS if any(final(one.run, metric) for one in readable)]
    tables = [Table("Runs", RUN_HEADS, [run_row(label, run, errors[run.folder]) for label, run in labelled])]
    if readable:
        tables += [settings_table(readable), final_table(readable, metrics)]
    if len(readable) > 1:
        tables += [paired_table(readable, metric) for metric in metrics if metric.split != "train"]
    pictures = [(metric.title, picture(readable, metric)) for metric in metrics]
    pages = Environment(autoescape=True, trim_blocks=True)
    pages.filters["printable"] = printable
    return pages.from_string(PAGE).render(tables=tables, pictures=pictures, count=len(runs))


def named(labelled: Sequence[tuple[str, Run]]) -> list[Compared]:
    """Runs with names that tell them apart: words of script and overrides not in all, rarest first, else the folder."""
    words = [[run.script, *run.overrides] for _, run in labelled]
    have = Counter(word for own in words for word in {*own})
    names = (" ".join(sorted((w for w in own if have[w] < len(words)), key=lambda w: have[w])) for own in words)
    return [Compared(*pair, name or pair[1].folder.name) for pair, name in zip(labelled, names, strict=True)]


def problem(run: Run) -> str | None:
    """Why a run cannot be compared; None where all that the page needs of it can be read."""
    try:
        trained = run.trained()
        if not trained.has_metrics:
            return f"{LEFT_OUT}: {', '.join(filter(None, trained.status))}; it has no metrics"
        run_row("", run, None)
        with_effect(trained.settings)
        for metric in METRICS:
            if final(trained, metric):
                trained.curve(metric.split, metric.name)
    except (UserError, RecursionError) as error:
        return str(error)
    return None


def final(run: Run, metric: Metric, until: float = math.inf) -> dict[int, float]:
    """A metric after the last epoch, none later than ``until``, of every model, by seed; empty where there is none."""
    frame = run.history.frame
    if metric.name not in frame:
        return {}
    measured = frame[(frame["split"] == metric.split) & frame[metric.name].notna() & (frame["epoch"] <= until)]
    rows = measured[measured["epoch"] == measured["epoch"].max()]
    return dict(zip(run.get("seed", 0) + rows["model"], metric.scale * rows[metric.name], strict=True))


def letters(count: int) -> list[str]:
    """A, B, ..., Z, AA, AB, ..."""
    alphabet = string.ascii_uppercase
    sizes = (product(alphabet, repeat=size) for size in range(1, 8))
    return ["".join(word) for _, word in zip(range(count), (word for words in sizes for word in words), strict=False)]


RUN_HEADS = (
    "run",
    "script",
    "overridden",
    "status",
    "epochs",
    "models",
    "seconds",
    "steps/s",
    "device",
    "folder",
    "error",
)


def run_row(label: str, run: Run, error: str | None) -> list[str]:
    if error is not None:
        status = LEFT_OUT if error.startswith(LEFT_OUT) else "damaged"
        return [label, "", "", status, "", "", "", "", "", str(run.folder), error]
    trained = run.trained()
    summary, (status, ended_by) = trained.summary, trained.status
    speed, seconds = summary.get("steps_per_second"), summary.get("wall_seconds")
    return [
        label,
        f"{trained.script}.py",
        " ".join(trained.overrides) or "defaults",
        status,
        f"{trained.history.last_epoch} of {trained.get('training.nepochs', '?')}",
        str(trained.get("nmodels", 1)),
        "" if seconds is None else f"{seconds:.0f}",
        "" if speed is None else f"{speed:.0f}",
        summary.get("device", ""),
        str(trained.folder),
        ended_by,
    ]


def settings_table(runs: Sequence[Compared]) -> Table:
    settings = [{"script": run.script, **with_effect(run.settings)} for _, run, _ in runs]
    rows = [[key, *(str(s.get(key, "—")) for s in settings)] for key in dict.fromkeys(k for s in settings for k in s)]
    differing = [row for row in rows if len({*row[1:]}) > 1]
    heads = ["setting", *(one.label for one in runs)] if differing else []
    return Table("Settings that differ", heads, differing, "" if differing else "None.")


def final_table(runs: Sequence[Compared], metrics: Sequence[Metric]) -> Table:
    rows = []
    for one in runs:
        values = [[*final(one.run, metric).values()] for metric in metrics]
        rows.append([one.title, *(format_mean(*mean_and_sd(v)) if v else "—" for v in values)])
    return Table("After the last epoch, mean ± sd over models", ["run", *(m.title for m in metrics)], rows)


def paired_table(runs: Sequence[Compared], metric: Metric) -> Table:
    (first, reference, _), rows = runs[0], []
    for label, run, _ in runs[1:]:
        both = min(run.history.last_epoch, reference.history.last_epoch)
        interval = paired_interval(final(run, metric, both), final(reference, metric, both))
        mean = "—" if interval.mean is None else f"{interval.mean:+.3g}"
        rows.append([f"{label} minus {first}", str(both), str(interval.pairs), mean, *verdict(interval)])
    return Table(
        f"Difference from {first}: {metric.title}",
        ["difference", "after epoch", "shared seeds", "mean", f"{LEVEL:.0%} interval", ""],
        rows,
        "Differences between two models that started from the same seed, after the last epoch that both runs have; the "
        "interval is Student's t for their mean.",
    )


def verdict(interval: Interval) -> tuple[str, str]:
    """The ends of an interval, and whether 0 lies within, in words."""
    if interval.low is None or interval.high is None:
        return "needs two shared seeds", ""
    differs = interval.low > 0 or interval.high < 0
    return f"{interval.low:+.3g} to {interval.high:+.3g}", "differs" if differs else "0 lies within"


@styled()
def picture(runs: Sequence[Compared], metric: Metric) -> str:
    """A metric over epochs, drawn as SVG: the data URI of the image."""
    columns = 1 + len(runs) // 16  # of the legend
    figure, ax = new_figure(width=2.8 + 2.6 * columns)
    for index, one in enumerate(runs):
        if final(one.run, metric):
            epochs, values = one.run.curve(metric.split, metric.name)
            limits = PERCENT if metric.name == "accuracy" else (0, np.inf)
            title = one.title if len(one.title) <= LABEL else f"{one.title[: LABEL - 1]}…"
            look = SEQUENCE[index] if index < len(SEQUENCE) else mixed_look(index)
            band(ax, epochs, metric.scale * values, title, look, limits)
    ax.set_title(metric.title)
    if metric.name == "accuracy":
        leave_out_epoch_0(ax)
    whole_epochs(ax)
    legend(ax, ncols=columns)
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Comparison of {{ count }} runs</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222; }
  h1 { font-size: 1.5em; } h2 { font-size: 1.1em; margin: 2em 0 .5em; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-size: .9em; font-variant-numeric: tabular-nums; }
  th, td { padding: .25em .8em .25em 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
  thead th { border-bottom: 2px solid #888; }
  img { height: 270px; max-width: 100%; margin: 0 1em 1em 0; }
</style>
<h1>Comparison of {{ count }} runs</h1>
{% for table in tables %}
<h2>{{ table.title }}</h2>
{% if table.rows %}
<div class="wide"><table>
<thead><tr>{% for head in table.heads %}<th>{{ head }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr><th>{{ row[0] | printable }}</th>{% for cell in row[1:] %}<td>{{ cell | printable }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if table.note %}<p>{{ table.note }}</p>{% endif %}
{% endfor %}
<h2>Over epochs</h2>
<p>Lines are means over a run's models, bands one standard deviation of these on either side.</p>
{% for title, address in pictures %}
<img alt="{{ title }} over epochs" src="{{ address }}">
{% endfor %}
</html>
"""


def opened(words: Sequence[str]) -> list[Run]:
    """The runs that arguments name; notes each that names none.  Raises UserError if no argument names a run."""
    found, empty = [], []
    for word in words:
        try:
            found += open_runs(word)
        except UserError as error:
            empty.append(error)
    if not found:
        raise empty[0]
    for error in empty:
        print(f"{LEFT_OUT}: {error}", file=sys.stderr)
    return open_runs([run.folder for run in found])


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m projectlib.plotting.report", description="One HTML page that compares runs."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, folders of runs, or globs")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="default: report.html")
    arguments = parser.parse_args(words)
    text = report(opened(arguments.runs))
    try:
        write_text(arguments.output, text)
    except OSError as error:
        raise UserError(f"cannot write {arguments.output}: {error.strerror}; expected a file: -o report.html") from None
    print(arguments.output)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
