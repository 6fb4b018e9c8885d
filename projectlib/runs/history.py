"""The history of a run: the table in metrics.csv, and what it says of the run's models."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from projectlib.errors import UserError, one_line
from projectlib.runs.files import write_text
from projectlib.runs.folder import LARGEST

KEYS = ("epoch", "split", "model")
TRAIN_SET = "train_set"
"""The training samples scored as others are; ``train`` is the mean over an epoch while it was learnt."""

DIRECTION = {"accuracy": 1, "loss": -1, "nmse_after": -1}  # more is better, or less

Statistics = dict[str, dict[str, dict[str, float | None]]]
"""``{split: {metric: {"mean", "sd"}}}`` over models; sd with n - 1, None for one model."""


class History:
    """Tidy metrics: one row per epoch, split and model, ``{"epoch", "split", "model", metric: value, ...}``.

    A row lacks the metrics that were not measured.
    """

    def __init__(self, rows: list[dict[str, Any]] | None = None):
        self.rows = rows or []

    def add(self, epoch: int, split: str, metrics: dict) -> None:
        """metrics: tensors (num_models,) by name."""
        by_model = zip(*(values.tolist() for values in metrics.values()), strict=True)
        self.rows += [
            {"epoch": epoch, "split": split, "model": model, **dict(zip(metrics, values, strict=True))}
            for model, values in enumerate(by_model)
        ]

    @property
    def frame(self) -> pd.DataFrame:
        """The table, NaN where a metric was not measured."""
        return pd.DataFrame(self.rows, columns=[*dict.fromkeys([*KEYS, *(name for row in self.rows for name in row)])])

    @property
    def last_epoch(self) -> int:
        return max((row["epoch"] for row in self.rows), default=0)

    def values(self, epoch: int, split: str, metric: str) -> list[float]:
        """One metric of every model; empty where it was not measured."""
        return [row[metric] for row in self.rows if row["epoch"] == epoch and row["split"] == split and metric in row]

    def statistics(self) -> pd.DataFrame:
        """Mean and sd over models (columns) by epoch, split and metric (index), in the order of the file."""
        measured = self.frame.melt([*KEYS], var_name="metric").dropna()
        groups = measured.groupby(["epoch", "split", "metric"], sort=False)
        return groups.agg(mean=("value", "mean"), sd=("value", "std"))

    def summary(self) -> Statistics:
        """What the models have reached in the last epoch."""
        statistics = self.statistics()
        return nested(statistics.loc[statistics.index.get_level_values("epoch") == self.last_epoch])

    def best(self) -> Statistics:
        """The best mean over models by split and metric, with its ``epoch``, the earliest among equals."""
        statistics = self.statistics()
        score = (statistics["mean"] * statistics.index.get_level_values("metric").map(DIRECTION).astype(float)).dropna()
        best = statistics.loc[score.groupby(["split", "metric"], sort=False).idxmax()]
        return nested(best.assign(epoch=best.index.get_level_values("epoch")))

    def write(self, path: Path) -> None:
        write_text(path, self.frame.to_csv(index=False, lineterminator="\n"))

    @classmethod
    def read(cls, path: Path) -> "History":
        """Raises UserError where the file is missing or not what ``write`` writes."""
        if not Path(path).is_file():
            raise UserError(f"{path} does not exist; expected the metrics.csv of a run folder")
        try:
            frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
            return cls(rows_of(frame))
        except pd.errors.EmptyDataError:
            return cls()
        except (OSError, KeyError, TypeError, ValueError, OverflowError, pd.errors.ParserError) as error:
            expected = f"columns {', '.join(KEYS)} and one number a metric"
            raise UserError(f"{path} cannot be read ({one_line(error)}); expected {expected}") from None


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table that was read from a file.  Raises ValueError where it is not a table of metrics."""
    if [*frame.columns[:3]] != [*KEYS] or not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(f"its columns are {', '.join(map(str, frame.columns))}")
    if frame.empty:
        return []
    if frame[[*KEYS]].isna().to_numpy().any():
        raise ValueError("a row is cut short")
    metrics = frame.columns[3:]
    for name in ("epoch", "model", *metrics):
        if frame[name].dtype.kind not in ("if" if name in metrics else "i"):
            raise ValueError(f"{name} is not a number in every row")
        if not (frame[name].dropna().abs() < LARGEST).to_numpy().all():
            raise ValueError(f"{name} is not finite in every row")
    rows = frame.astype({"split": str, **dict.fromkeys(metrics, float)}).to_dict("records")
    return [{str(name): value for name, value in row.items() if value == value} for row in rows]


def nested(statistics: pd.DataFrame) -> Statistics:
    """A table by split and metric as nested dictionaries, None for the sd of a single model."""
    result: Statistics = {}
    for (_, split, metric), row in zip(statistics.index, statistics.to_dict("records"), strict=True):
        sd = None if math.isnan(row["sd"]) else row["sd"]
        result.setdefault(split, {})[metric] = {**row, "sd": sd}
    return result


def row_split(split: str) -> str:
    """The split name under which scores are recorded: ``train_set`` for the training samples."""
    return TRAIN_SET if split == "train" else split


def mean_and_sd(values) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1) over models; no deviation for a single model."""
    values = np.asarray(values, dtype=np.float64)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def format_mean(mean: float, sd: float | None, scale: float = 1.0, unit: str = "") -> str:
    """``mean ± sd`` with two decimals, or the mean alone for one model; small numbers with three digits."""
    style = ".2f" if abs(mean * scale) >= 0.01 or mean == 0 else ".2e"
    spread = "" if sd is None or math.isnan(sd) else f" ± {sd * scale:{style}}"
    return f"{mean * scale:{style}}{spread}{unit}"
