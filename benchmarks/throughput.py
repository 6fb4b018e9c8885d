"""How much faster a sweep of small jobs is with joblib than one after the other.

    python benchmarks/throughput.py [--jobs 16] [--epochs 4]

Prints the seconds of both, their ratio (at most 0.6 is wanted on two cores), and those of the shortest job.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from projectlib.config.compose import CONFIGS
from projectlib.sweeps.collect import collect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=4, help="2 s each, for a job of more than 10 s with its start")
    options = parser.parse_args()
    seconds = {launcher: sweep(launcher, options.jobs, options.epochs) for launcher in ("basic", "joblib")}
    print(f"joblib / basic: {seconds['joblib'] / seconds['basic']:.2f}")


def sweep(launcher: str, jobs: int, epochs: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        settings = ["data=digits", "nmodels=1", "engine=eager", f"training.nepochs={epochs}", f"seed=range({jobs})"]
        options = [f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep"]
        command = [sys.executable, str(CONFIGS.parent / "train-biohsic.py"), "--multirun", *settings, *options]
        begin = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        rows = collect([Path(folder, "sweep")])
    shortest = min(row["wall_seconds"] for row in rows)
    print(f"{launcher}: {jobs} jobs in {seconds:.0f} s, the shortest {shortest:.1f} s", flush=True)
    return seconds


if __name__ == "__main__":
    main()
