"""Figures from run folders."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from projectlib.metrics import History


def learning_curve(history: History, axis) -> None:
    """Accuracy over epochs, mean and sd band over models, for each split."""
    for split in dict.fromkeys(row["split"] for row in history.rows):
        epochs = sorted({row["epoch"] for row in history.rows if row["split"] == split})
        values = 100 * np.array([history.values(epoch, split, "accuracy") for epoch in epochs])
        mean, sd = values.mean(1), values.std(1, ddof=1) if values.shape[1] > 1 else np.zeros(len(epochs))
        (line,) = axis.plot(epochs, mean, marker="o", label=split)
        axis.fill_between(epochs, mean - sd, mean + sd, alpha=0.25, color=line.get_color(), linewidth=0)
    axis.set(xlabel="epoch", ylabel="accuracy (%)")
    axis.legend()


def save_run_figure(folder: Path) -> Path:
    """Draw ``figures/learning-curve.png`` of a run folder and return its path."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    learning_curve(History.read(Path(folder) / "metrics.csv"), figure.subplots())
    path = Path(folder) / "figures" / "learning-curve.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
