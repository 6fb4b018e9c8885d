"""The history of a run: metrics.csv, and what is said of its models."""

import csv
import io
import math
from itertools import groupby
from pathlib import Path

import numpy as np
from torch import Tensor

from projectlib.errors import UserError
from projectlib.runs.files import write_text

KEYS = ("epoch", "split", "model")
DIRECTION = {"accuracy": 1, "loss": -1, "nmse_after": -1}  # more is better, or less


def mean_and_sd(values) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1) over models; no deviation for a single model."""
    values = np.asarray(values, dtype=np.float64)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


class History:
    """Tidy metrics: one row per epoch, split and model, ``{"epoch", "split", "model", name: value, ...}``."""

    def __init__(self, rows: list[dict] | None = None):
        self.rows = rows or []

    def add(self, epoch: int, split: str, metrics: dict[str, Tensor]) -> None:
        """metrics: (num_models,) by name."""
        columns = {name: values.tolist() for name, values in metrics.items()}
        num_models = len(next(iter(columns.values())))
        for model in range(num_models):
            values = {name: column[model] for name, column in columns.items()}
            self.rows.append({"epoch": epoch, "split": split, "model": model, **values})

    def values(self, epoch: int, split: str, name: str) -> list[float]:
        """One metric of every model; empty where it was not measured."""
        return [row[name] for row in self.rows if row["epoch"] == epoch and row["split"] == split and name in row]

    @property
    def last_epoch(self) -> int:
        return max((row["epoch"] for row in self.rows), default=0)

    def summary(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """``{split: {name: {"mean", "sd"}}}`` of the last epoch."""
        return over_models([row for row in self.rows if row["epoch"] == self.last_epoch])

    def best(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """``{split: {name: {"mean", "sd", "epoch"}}}`` of the epoch with the best mean, by split and metric."""
        result: dict = {}
        for epoch, rows in groupby(self.rows, key=lambda row: row["epoch"]):
            for split, metrics in over_models([*rows]).items():
                for name in (name for name in metrics if name in DIRECTION):
                    best = result.setdefault(split, {}).setdefault(name, {"mean": -math.inf * DIRECTION[name]})
                    if DIRECTION[name] * (metrics[name]["mean"] - best["mean"]) > 0:
                        best.update(metrics[name], epoch=epoch)
        return result

    def to_csv(self) -> str:
        names = dict.fromkeys(name for row in self.rows for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, [*names], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def write(self, path: Path) -> None:
        write_text(path, self.to_csv())

    @classmethod
    def read(cls, path: Path) -> "History":
        """Raises UserError where the file is missing or not what ``write`` writes."""
        try:
            with open(path, newline="", encoding="utf-8") as file:
                return cls([parse_row(row) for row in csv.DictReader(file, strict=True)])
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; expected the metrics.csv of a run folder") from None
        except (OSError, UnicodeError, csv.Error, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); expected columns {', '.join(KEYS)} and one number a metric"
            ) from None


def over_models(rows: list[dict]) -> dict[str, dict[str, dict[str, float | None]]]:
    """``{split: {name: {"mean", "sd"}}}`` of the rows of one epoch."""
    result: dict = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        of_split = [row for row in rows if row["split"] == split]
        for name in (name for name in of_split[0] if name not in KEYS):
            mean, sd = mean_and_sd([row[name] for row in of_split])
            result.setdefault(split, {})[name] = {"mean": mean, "sd": sd}
    return result


def parse_row(row: dict[str, str]) -> dict:
    values = {name: float(text) for name, text in row.items() if name not in KEYS and text != ""}
    return {"epoch": int(row["epoch"]), "split": row["split"], "model": int(row["model"]), **values}


def format_mean(values, scale: float = 1.0, unit: str = "") -> str:
    """``mean ± sd`` with two decimals, or the mean alone for one model; small numbers with three digits."""
    mean, sd = mean_and_sd(values)
    style = ".2f" if abs(mean * scale) >= 0.01 or mean == 0 else ".2e"
    spread = "" if sd is None or math.isnan(sd) else f" ± {sd * scale:{style}}"
    return f"{mean * scale:{style}}{spread}{unit}"
