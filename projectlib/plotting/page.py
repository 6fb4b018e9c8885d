"""Where figures go, a page of a notebook and the files made of it, and which runs they draw."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from projectlib.errors import UserError
from projectlib.plotting.style import styled
from projectlib.runs.run import Folders, Run, all_runs, open_runs
from projectlib.sweeps.experiments import RESULTS

WIDTH, HEIGHT = 4.8, 2.7  # of one panel with the legend beside it, in inches
TYPES = ("pdf", "png")


@contextmanager
def page(
    folder: str | Path, name: str, rows: int = 1, columns: int = 1, width: float = WIDTH, height: float = HEIGHT
) -> Iterator[Any]:
    """Panels to draw on, shown by a notebook and saved as ``<folder>/<name>.pdf`` and ``.png``.

    Yields Axes, or an array of them, as ``new_figure``.  A figure whose runs are missing or damaged is left out: its
    message is printed and the notebook goes on.  width, height: of one panel, in inches.
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
) -> tuple[Figure, Any]:
    """A figure that no window or notebook shows, and its panels, to be drawn on under ``styled``.

    One panel is matplotlib's Axes; several are an array of them, (columns,) or (rows, columns).
    width, height: of one panel, in inches.  options: further ones of ``Figure.subplots``.
    """
    with styled():
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, **options)


def use_panels(axes: Any, num: int, what: str) -> np.ndarray:
    """The first ``num`` panels (of each row), the others emptied.  Raises UserError where there are fewer.

    what: what has a panel each, in words.
    """
    axes = np.atleast_1d(axes)
    if num > axes.shape[-1]:
        raise UserError(f"{num} {what} to draw; expected at most {axes.shape[-1]}, as many as panels: draw fewer")
    for ax in axes[..., num:].flat:
        ax.axis("off")
    return axes[..., :num]


def is_network(run: Run) -> bool:
    return not run.is_reservoir


def select_runs(
    folders: Folders | None, suits: Callable[[Run], bool] = is_network, what: str = "run of a network"
) -> list[Run]:
    """The runs to draw: those given, or the newest that suits.

    Raises UserError for a run that does not suit, or where there is none.  what: the runs that suit, in words.
    """
    if folders is None:
        for run in all_runs(RESULTS):
            with suppress(UserError):  # one that cannot be read does not suit
                if run.is_finished and suits(run):
                    return [run]
        raise UserError(f"no finished {what} in {' or '.join(str(root) for root in RESULTS)}; name its folder")
    given = (run if run.has_metrics else run.trained() for run in open_runs(folders))
    runs = [*{os.path.realpath(run.folder): run for run in given}.values()]
    for run in runs:
        if not suits(run):
            raise UserError(f"{run.folder} is a run of {run.script}.py; expected a {what}")
    return runs


def select_run(
    folders: Folders | None, suits: Callable[[Run], bool] = is_network, what: str = "run of a network"
) -> Run:
    """The run of a figure that draws one, as ``select_runs``.  Raises UserError for several."""
    runs = select_runs(folders, suits, what)
    if len(runs) > 1:
        raise UserError(
            f"this figure draws one run, but {len(runs)} were given: {', '.join(str(run.folder) for run in runs)}"
        )
    return runs[0]


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
