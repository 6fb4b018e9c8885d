"""Figures from run folders: one function per figure, each of run folders (or globs of them) and matplotlib's Axes.

``None`` instead of run folders is the newest finished run that suits.  Where a run is missing, empty or damaged, or
is not what a figure draws, a UserError says so.
"""

from pathlib import Path

from projectlib.plotting import curves, depth, memories, reservoir, signals, small, spikes, table
from projectlib.plotting.page import new_figure, page, save
from projectlib.plotting.style import styled
from projectlib.runs.folder import FIGURES
from projectlib.runs.run import Run
from projectlib.sweeps.experiments import Results

__all__ = [
    "Results",
    "curves",
    "depth",
    "memories",
    "page",
    "reservoir",
    "save_run_figure",
    "signals",
    "small",
    "spikes",
    "table",
]


@styled()
def save_run_figure(folder: str | Path) -> Path:
    """Draw ``figures/learning-curve.png`` of a run folder, and for a reservoir its ``figures/heat-map.png``.

    Returns the path of the last that was drawn.
    """
    run = Run(Path(folder))
    figure, ax = new_figure()
    (reservoir.error if run.is_reservoir else curves.learning_curve)(run.folder, ax)
    (path,) = save(figure, run.folder / FIGURES, "learning-curve", types=["png"])
    if run.is_reservoir:
        figure, axes = new_figure(2, 3, width=3.6, height=1.8)
        reservoir.heat_maps(run.folder, axes)
        (path,) = save(figure, run.folder / FIGURES, "heat-map", types=["png"])
    return path
