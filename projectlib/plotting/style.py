"""How runs look: one colour, line and marker for each kind, told apart in grey and by colour-blind readers."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from projectlib.runs.folder import Run

# Okabe and Ito's colours in an order of growing lightness
BLACK, BLUE, VERMILION, GREEN, ORANGE, SKY = "#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9"
HEAT = "cividis"  # lightness grows with the value


class Look(NamedTuple):
    color: str
    linestyle: str | tuple
    marker: str


KINDS = {
    "local": ("local rule", Look(BLUE, "-", "o")),
    "exact": ("local rule, exact signal", Look(VERMILION, "--", "^")),
    "frozen": ("frozen hidden layers", Look(ORANGE, ":", "s")),
    "backprop": ("back-propagation", Look(BLACK, "-.", "D")),
    "batch": ("batch HSIC", Look(GREEN, (0, (3, 1, 1, 1, 1, 1)), "v")),
}
SEQUENCE = (
    Look(BLUE, "-", "o"),
    Look(VERMILION, "--", "^"),
    Look(BLACK, "-.", "D"),
    Look(ORANGE, ":", "s"),
    Look(GREEN, (0, (3, 1, 1, 1, 1, 1)), "v"),
    Look(SKY, (0, (5, 1)), "P"),
)
RULES = {"BioHSIC": "local", "Frozen": "frozen", "Backprop": "backprop", "HSIC": "batch"}


def kind(run: Run) -> str | None:
    """Which of ``KINDS`` a run's rule is, if any."""
    name = RULES.get(str(run.get("rule._target_")).rsplit(".", 1)[-1])
    return "exact" if name == "local" and run.get("rule.form") == "exact" else name


def names_and_looks(runs: Sequence[Run]) -> list[tuple[str, Look]]:
    """A name for each run and a look of its own; runs of one kind are told apart by what was overridden."""
    kinds = [kind(run) for run in runs]
    overridden = [{word for word in run.overrides if not word.startswith("experiment=")} for run in runs]
    common = set.intersection(*overridden)
    free = [look for look in SEQUENCE if look not in {KINDS[name][1] for name in kinds if name}]
    result, taken = [], set()
    for run, name, words in zip(runs, kinds, overridden, strict=True):
        title, look = KINDS[name] if name else (str(run.get("rule._target_")), None)
        if Counter(kinds)[name] > 1:
            title += f" ({' '.join(sorted(words - common)) or run.folder.name})"
        if look is None or look in taken:
            look = free.pop(0) if free else SEQUENCE[len(result) % len(SEQUENCE)]
        taken.add(look)
        result.append((title + progress(run), look))
    return result


def progress(run: Run) -> str:
    """How far a run got, where it has not reached its last epoch."""
    reached, last = run.history.last_epoch, run.get("training.nepochs")
    return "" if last is None or reached >= last else f", epoch {reached} of {last}"


def band(axis: Axes, x: np.ndarray, values: np.ndarray, label: str | None, look: Look) -> None:
    """Mean over models as a line, and one standard deviation around it.  x: (n,).  values: (n, num_models)."""
    mean = values.mean(1)
    axis.plot(
        x,
        mean,
        label=label,
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=4,
        markevery=max(1, len(x) // 10),
    )
    if values.shape[1] > 1:
        sd = values.std(1, ddof=1)
        axis.fill_between(x, mean - sd, mean + sd, color=look.color, alpha=0.2, linewidth=0)


def whole_epochs(axis: Axes) -> None:
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("epoch")
