"""Where figures go: a page of axes in a notebook, and the files made of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from projectlib.errors import UserError
from projectlib.plotting.style import styled
from projectlib.runs.folder import Folders, Run, all_runs, open_runs
from projectlib.sweeps.experiments import RESULTS

WIDTH, HEIGHT = 4.8, 2.7  # of one panel with the legend beside it, in inches
TYPES = ("pdf", "png")


@contextmanager
def page(
    folder: str | Path, name: str, rows: int = 1, columns: int = 1, width: float = WIDTH, height: float = HEIGHT
) -> Iterator:
    """Axes to draw on, shown by a notebook and saved as ``<folder>/<name>.pdf`` and ``.png``.

    Yields one axis, or an array of them.  A figure whose runs are missing or damaged is left out: its message is
    printed and the notebook goes on.  width, height: of one panel, in inches.
    """
    from matplotlib import pyplot

    figure = pyplot.figure(name, figsize=(width * columns, height * rows), layout="constrained", clear=True)
    try:
        with styled():  # not around the figure: a notebook turns interactive with its first, which is to stay so
            yield figure.subplots(rows, columns)
    except UserError as error:
        pyplot.close(figure)
        print(f"no figure {name}: {error}")
        return
    save(figure, Path(folder), name)


def save(figure: Figure, folder: Path, name: str, types: Sequence[str] = TYPES) -> list[Path]:
    """Write ``<folder>/<name>.<type>`` for each type."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in types]
    with styled():
        for path in paths:
            figure.savefig(path, dpi=150)
    return paths


def new_figure(
    rows: int = 1, columns: int = 1, width: float = WIDTH, height: float = HEIGHT, **options
) -> tuple[Figure, Axes | np.ndarray]:
    """A figure that no window or notebook shows, and its axes, to be drawn on under ``styled``.

    width, height: of one panel, in inches.  options: further ones of ``Figure.subplots``.
    """
    with styled():
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, **options)


def select_runs(runs: Folders | None, suits: Callable[[Run], bool], what: str) -> list[Run]:
    """The runs to draw: those given, or the newest that suits.

    Raises UserError for a run that does not suit, or where there is none.  what: the runs that suit, in words.
    """
    if runs is None:
        newest = next((run for run in all_runs(RESULTS) if suits(run) and run.is_finished), None)
        if newest is None:
            raise UserError(f"no finished {what} in {' or '.join(str(root) for root in RESULTS)}; name its folder")
        return [newest]
    opened = open_runs(runs)
    for run in opened:
        if not suits(run):
            raise UserError(f"{run.folder} is a run of {run.script}.py; expected a {what}")
    return opened


def only(runs: Sequence[Run]) -> Run:
    """The one run of a figure that draws one.  Raises UserError for several."""
    if len(runs) > 1:
        raise UserError(
            f"this figure draws one run, but {len(runs)} were given: {', '.join(str(r.folder) for r in runs)}"
        )
    return runs[0]


def is_network(run: Run) -> bool:
    return not run.is_reservoir
