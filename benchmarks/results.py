"""What was measured against what had to be reached: a row of the table, and the table as Markdown and JSON."""

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal, NamedTuple


class Limit(NamedTuple):
    """At most ``factor`` times one of a row's numbers: 1 of its unit, its stick, or what was published."""

    factor: float
    of: Literal["unit", "stick", "published"] = "unit"

    def text(self, unit: str) -> str:
        if self.of == "unit":
            return f"{number(self.factor)} {unit}"
        if self.of == "stick":
            return f"{self.factor:g} x"
        return f"1/{round(1 / self.factor)} of published"


@dataclass(frozen=True)
class Row:
    """A line of the table before anything is measured.

    published: the published code's number, in ``unit``.  stick: what is timed in turn with it, in words.
    """

    title: str
    unit: str
    limits: tuple[Limit, ...]
    published: float | None = None
    stick: str = ""


@dataclass(frozen=True)
class Result:
    """A row measured once a repetition, in the row's unit.

    sticks: what it is held against, measured in the same repetitions; none where there is nothing to hold it
    against.  compile_seconds: of every run, apart from ``measured``.  note: what else has to be said, or why nothing
    was measured.
    """

    row: Row
    measured: list[float] = field(default_factory=list)
    sticks: list[float] = field(default_factory=list)
    compile_seconds: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Measured over stick, repetition by repetition, so that what slows both does not count."""
        return [ours / stick for ours, stick in zip(self.measured, self.sticks, strict=True)] if self.sticks else []

    def holds(self, limit: Limit) -> bool | None:
        """Whether the median is within a limit; None where it cannot be told."""
        if not self.measured:
            return None
        if limit.of == "stick":
            return median(self.ratios) <= limit.factor if self.ratios else None
        if limit.of == "published":
            return None if self.row.published is None else median(self.measured) <= limit.factor * self.row.published
        return median(self.measured) <= limit.factor

    @property
    def reached(self) -> bool | None:
        """Whether all limits hold; None where none is missed but one cannot be told, or there is none."""
        held = [self.holds(limit) for limit in self.row.limits]
        if False in held:
            return False
        return None if None in held or not held else True


COLUMNS = ("row", "measured", "held against", "ratio", "published", "must reach", "reached", "compilation")
REACHED = {True: "yes", False: "**no**", None: "?"}


def number(value: float) -> str:
    """Three digits, and no exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: list[float], unit: str = "") -> str:
    """``median unit (least to most)``; the median alone of a single repetition, nothing of none."""
    if not values:
        return ""
    middle = f"{number(median(values))} {unit}".strip()
    return middle if len(values) == 1 else f"{middle} ({number(min(values))} to {number(max(values))})"


def cells(result: Result) -> list[str]:
    """One line of the table, as texts in the order of ``COLUMNS``."""
    row = result.row
    return [
        row.title + (f" ({result.note})" if result.note else ""),
        spread(result.measured, row.unit),
        f"{row.stick} {spread(result.sticks, row.unit)}" if result.sticks else "",
        spread(result.ratios),
        "" if row.published is None else f"{number(row.published)} {row.unit}",
        ", ".join(limit.text(row.unit) + (f" {row.stick}" if limit.of == "stick" else "") for limit in row.limits),
        REACHED[result.reached],
        compilation(result.compile_seconds),
    ]


def compilation(seconds: list[float]) -> str:
    """Of the first run, which fills a cache, and of those after it; nothing where nothing was compiled."""
    if not any(round(value, 1) for value in seconds):
        return ""
    first, *later = seconds
    return f"{first:.1f} s" + (f", then {median(later):.1f} s" if later else "")


def table(header: tuple[str, ...], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(header), rule, *lines])


def markdown(machine: dict[str, Any], results: list[Result], sections: list[str]) -> str:
    """The report: the machine, the table, and further sections as they are."""
    about = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    parts = ["# Speed", about, table(COLUMNS, [cells(result) for result in results]) if results else "", *sections]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(result: Result) -> dict[str, Any]:
    """A result for JSON, what follows from it included."""
    return {
        **asdict(result.row),
        "limits": [limit._asdict() for limit in result.row.limits],
        "measured": summary(result.measured),
        "stick_measured": summary(result.sticks),
        "ratio": summary(result.ratios),
        "compile_seconds": result.compile_seconds,
        "reached": result.reached,
        "note": result.note,
    }


def summary(values: list[float]) -> dict[str, Any] | None:
    if not values:
        return None
    return {"median": median(values), "min": min(values), "max": max(values), "all": values}
