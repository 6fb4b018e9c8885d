"""The demo: the rule beside its control, on data where random hidden layers are not enough.

    python -m projectlib.demo                        what make demo runs
    python -m projectlib.demo training.nepochs=10    with settings of one's own

The number of epochs was chosen with ``data.validation=0.2``: there, after 5 epochs, the three runs of five models each
had 70, 85 and 94 %.
"""

import shlex
import sys
from collections.abc import Sequence

import projectlib
from projectlib.errors import Interrupted, UserError
from projectlib.garbage import skip_final_collection
from projectlib.runs.history import format_mean, mean_and_sd

SETTINGS = ("data=mnist_5000", "nmodels=3", "training.nepochs=5", "device=cpu")
RUNS = {
    "the control: hidden layers frozen": ("rule=frozen",),
    "the rule, with the paper's window": (),
    "the rule, with a memory instead": ("modulator=delta", "optimizer=adamw-averaged"),
}
"""What ``train-biohsic`` is given beside SETTINGS, by title."""


def accuracy(overrides: Sequence[str]) -> str:
    """Test accuracy after the last epoch of a new run, mean ± sd over its models."""
    metrics = projectlib.train("train-biohsic", *overrides).metrics
    test = metrics[(metrics["split"] == "test") & (metrics["epoch"] == metrics["epoch"].max())]
    return format_mean(*mean_and_sd(test["accuracy"]), scale=100, unit=" %")


def main(settings: Sequence[str]) -> None:
    reached = {}
    for title, choice in RUNS.items():
        overrides = [*SETTINGS, *choice, *settings]
        print(f"\n{title}: python train-biohsic.py {shlex.join(overrides)}", flush=True)
        reached[title] = accuracy(overrides)
    print("\nTest accuracy on digits of MNIST, mean ± sd over models; the control has the settings of the window:")
    for title, reading in reached.items():
        print(f"    {title:36}{reading}")


if __name__ == "__main__":
    skip_final_collection()
    try:
        main(sys.argv[1:])
    except (UserError, Interrupted) as error:
        sys.exit(f"error: {error}")
