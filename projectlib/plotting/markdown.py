"""Tables and numbers in Markdown."""

from collections.abc import Iterable, Sequence


def percent(accuracy: float, sd: float, models: float) -> str:
    return f"{accuracy:.2f} ± {sd:.2f} %" if models > 1 else f"{accuracy:.2f} %"


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
