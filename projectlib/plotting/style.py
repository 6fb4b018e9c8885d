"""How figures look: the one style of all of them, and a colour, line and marker for each kind of run.

Kinds are told apart in grey and by colour-blind readers.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from projectlib.runs.run import Run

# Okabe and Ito's colours in an order of growing lightness
BLACK, BLUE, VERMILION, GREEN, ORANGE, SKY = "#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9"
PURPLE, GREY, BROWN = "#CC79A7", "#777777", "#8C510A"
SEQUENTIAL = "cividis"  # of values from 0: lightness grows with the value
DIVERGING = "RdBu_r"  # of signed values: white is 0

STYLE: dict[Any, Any] = {
    **{"font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8},
    **{"axes.titlelocation": "left", "axes.titlepad": 8, "axes.spines.top": False, "axes.spines.right": False},
    **{"legend.frameon": False, "legend.fontsize": 8, "figure.titlesize": 10},
    **{"lines.markersize": 4, "lines.linewidth": 1.4, "pdf.fonttype": 42},  # 42: text stays text
}
"""matplotlib's settings under which every figure is made."""


def styled():
    """A context, or a decorator of what draws, in which matplotlib has ``STYLE``."""
    return rc_context(STYLE)


class Look(NamedTuple):
    color: str
    linestyle: str | tuple
    marker: str


class Kind(NamedTuple):
    """A kind of run.  has_signal: whether every hidden layer learns from a signal of its own."""

    title: str
    look: Look
    has_signal: bool = False


KINDS = {
    "biohsic": Kind("local rule", Look(BLUE, "-", "o"), has_signal=True),
    "exact": Kind("local rule, exact signal", Look(VERMILION, "--", "^"), has_signal=True),
    "frozen": Kind("frozen hidden layers", Look(ORANGE, ":", "s")),
    "backprop": Kind("back-propagation", Look(BLACK, "-.", "D")),
    "hsic": Kind("batch HSIC", Look(GREEN, (0, (3, 1, 1, 1, 1, 1)), "v"), has_signal=True),
    "remembered": Kind("remembered window", Look(BROWN, "--", "P"), has_signal=True),
    "covariance": Kind("covariances", Look(GREY, "--", "X"), has_signal=True),
    "delta": Kind("delta memory", Look(PURPLE, "-", "*"), has_signal=True),
    "class-means": Kind("class means", Look(SKY, "-", "h"), has_signal=True),
}
"""By ``kind``; one that is not here has a look that is free."""

TITLES = {
    "parzen": "window, parzen signal",
    "contrastive": "window, contrastive signal",
    "reservoir": "reservoir's signal",
    "similarity-matching": "similarity matching",
    "phsic": "plausible HSIC",
    "local-classifier": "local classifiers",
    "direct-feedback-alignment": "direct feedback alignment",
    "feedback-alignment": "feedback alignment",
}
"""Titles of further kinds; one that is not here either has its own name as title."""


SEQUENCE = (
    Look(BLUE, "-", "o"),
    Look(VERMILION, "--", "^"),
    Look(BLACK, "-.", "D"),
    Look(ORANGE, ":", "s"),
    Look(GREEN, (0, (3, 1, 1, 1, 1, 1)), "v"),
    Look(SKY, (0, (5, 1)), "P"),
)


def kind(run: Run) -> str:
    """What was chosen as ``rule=``; for biohsic its modulator, and any other signal than the usual one of that."""
    rule, modulator = str(run.choices.get("rule")), run.choices.get("modulator", "window")
    form, signal = run.get("hsic.form", "published"), run.get("rule.modulator.signal", "parzen")
    if rule == "local-classifier" and run.get("rule.feedback") == "random":
        return "local classifiers, random feedback"
    if rule != "biohsic" or (modulator, form) == ("window", "published"):
        return rule
    if modulator == "remembered" and signal != "parzen":
        return f"remembered window, {signal} signal"
    return form if modulator == "window" else modulator


def kind_of(name: str) -> Kind:
    """The kind of that name; of a name that is none of ``KINDS`` one with the first look of ``SEQUENCE``."""
    return KINDS.get(name, Kind(TITLES.get(name, name), SEQUENCE[0]))


def names_and_looks(runs: Sequence[Run]) -> list[tuple[str, Look]]:
    """A name for each run and a look of its own; runs of one kind are told apart by their overrides."""
    kinds = [kind(run) for run in runs]
    overrides = [{word for word in run.overrides if not word.startswith(("experiment=", "size="))} for run in runs]
    common = set.intersection(*overrides)
    free = [look for look in SEQUENCE if look not in {KINDS[name].look for name in kinds if name in KINDS}]
    result, taken = [], set()
    for run, name, words in zip(runs, kinds, overrides, strict=True):
        title, look = KINDS[name][:2] if name in KINDS else (TITLES.get(name, name), None)
        if Counter(kinds)[name] > 1:
            title += f" ({' '.join(sorted(words - common)) or run.folder.name})"
        if look is None or look in taken:
            look = free.pop(0) if free else mixed_look(len(result))
        taken.add(look)
        result.append((title + progress(run), look))
    titles = Counter(title for title, _ in result)
    return [
        (f"{title} in {run.folder.parent.name}/{run.folder.name}" if titles[title] > 1 else title, look)
        for run, (title, look) in zip(runs, result, strict=True)
    ]


def mixed_look(place: int) -> Look:
    """A look for many curves: the color of one of ``SEQUENCE``, line and marker of another; thirty pairs."""
    num = len(SEQUENCE)
    line = SEQUENCE[(place + 1 + place // num % (num - 1)) % num]
    return line._replace(color=SEQUENCE[place % num].color)


def progress(run: Run) -> str:
    """How far a run got, where it has not reached its last epoch."""
    reached, last = run.history.last_epoch, run.get("training.nepochs")
    return "" if last is None or reached >= last else f", epoch {reached} of {last}"


def conditions(runs: Sequence[Run]) -> str:
    """On which data runs were trained, how many models and how long, e.g. ``mnist, 5 models, 25 epochs``."""
    data = " and ".join(sorted(set(map(data_of, runs))))
    models, epochs = (run.get("nmodels") for run in runs), (run.history.last_epoch for run in runs)
    return f"{data}, {numbered('model', models)}, {numbered('epoch', epochs)}"


def data_of(run: Run) -> str:
    limit = run.get("data.limit")
    return f"{run.get('data.name')}{'' if limit is None else f' ({limit} samples)'}"


def numbered(word: str, numbers: Iterable[int]) -> str:
    """``1 model``, ``5 models``, ``2 and 5 models``: all numbers, where they differ."""
    distinct = sorted(set(numbers))
    return f"{' and '.join(map(str, distinct))} {word}{'' if distinct == [1] else 's'}"


def band(
    ax: Axes, x: np.ndarray, values: np.ndarray, label: str | None, look: Look, limits: tuple = (-np.inf, np.inf)
) -> None:
    """Mean over models as a line, and one standard deviation around it, within the limits of what can be.

    x: (n,).  values: (n, num_models).
    """
    mean = values.mean(1)
    color, linestyle, marker = look
    ax.plot(x, mean, label=label, color=color, linestyle=linestyle, marker=marker, markevery=max(1, len(x) // 10))
    if values.shape[1] > 1:
        sd = values.std(1, ddof=1)
        ax.fill_between(x, *np.clip([mean - sd, mean + sd], *limits), color=color, alpha=0.2, linewidth=0)


PERCENT = (0, 100)  # limits of an accuracy


def whole_epochs(ax: Axes) -> None:
    ax.locator_params("x", integer=True)
    ax.set_xlabel("epoch")


def legend(ax: Axes, **options) -> None:
    """What the lines are, beside them and not on them."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), **options)


def figure_title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left")


def window_ticks(ax: Axes, windows: Sequence[int]) -> None:
    """A logarithmic axis of window sizes with a tick at each."""
    ax.set(xscale="log", xlabel="samples in a window")
    ax.set_xticks(windows, labels=map(str, windows))
    ax.minorticks_off()
