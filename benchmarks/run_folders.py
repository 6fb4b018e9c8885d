"""What 10,000 run folders cost the file system: making, listing, collecting and skipping them.

    python benchmarks/run_folders.py [--number 10000] [--folder /tmp/run-folders]

The folders hold what a real run leaves but its checkpoints and its figure: config, log, metrics, summary.  Delete them
yourself.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from omegaconf import OmegaConf

from projectlib.config.compose import CONFIGS, compose, without_hydra
from projectlib.runs.files import write_text
from projectlib.sweeps.jobs import finished_run, note_finished

NUM_EPOCHS = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--number", type=int, default=10000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/run-folders"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    os.chdir(options.folder)
    launched = compose("train-biohsic", ["data=mnist"])
    hydra = OmegaConf.to_yaml(OmegaConf.masked_copy(launched, ["hydra"]))
    config = without_hydra(launched)

    with clock(f"make {options.number} folders"):
        for number in range(options.number):
            make_run(Path("sweep", str(number)), config, hydra, number)
    with clock("list them (os.walk)"):
        files = sum(len(names) for _, _, names in os.walk("sweep"))
    print(f"{files} files")
    command = [sys.executable, "-m", "projectlib.sweeps.collect", "sweep", "-o", "runs.csv"]
    environment = {**os.environ, "PYTHONPATH": str(CONFIGS.parent)}
    for attempt in ("collect", "collect again"):
        with clock(attempt):
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    with clock("note 1,000 of them as finished"):
        for number in range(1000):
            note_finished("train-biohsic", settings(config, number), Path("sweep", str(number)))
    with clock("find these 1,000"):
        found = [finished_run("train-biohsic", settings(config, number)) for number in range(1000)]
    print(f"{sum(run is not None for run in found)} found")


class clock:
    """Prints the seconds that a block took."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        self.begin = time.perf_counter()

    def __exit__(self, *error) -> None:
        print(f"{self.what}: {time.perf_counter() - self.begin:.1f} s", flush=True)


def settings(config, number: int):
    """A config of its own for each run: ten seeds of each gamma."""
    changed = config.copy()
    changed.seed, changed.hsic.gamma = number % 10, number // 10
    return changed


def make_run(folder: Path, config, hydra: str, number: int) -> None:
    """One in a hundred has failed, one in a hundred was killed."""
    (folder / ".hydra").mkdir(parents=True)
    text = OmegaConf.to_yaml(config).replace("seed: 42", f"seed: {number % 10}", 1)
    (folder / ".hydra" / "config.yaml").write_text(text.replace("gamma: 2", f"gamma: {number // 10}", 1))
    (folder / ".hydra" / "hydra.yaml").write_text(hydra)
    (folder / ".hydra" / "overrides.yaml").write_text(f"- seed={number % 10}\n")
    (folder / ".lock").write_text("process 1 on here")
    (folder / "train-biohsic.log").write_text("[time][module][INFO] - epoch\n" * NUM_EPOCHS)
    rows = [f"{epoch},{split},0,0.3,0.9\n" for epoch in range(NUM_EPOCHS + 1) for split in ("train", "test")]
    (folder / "metrics.csv").write_text("epoch,split,model,loss,accuracy\n" + "".join(rows))
    if number % 100 == 1:
        return
    values = {name: {"mean": random.random(), "sd": 0.01} for name in ("loss", "accuracy")}
    metrics = {"train": values, "test": values}
    summary = {"status": "finished", "metrics": metrics, "best": metrics, "wall_seconds": 10.0, "device": "cpu"}
    if number % 100 == 2:
        summary |= {"status": "failed", "error": "train loss of model 0 is nan"}
    write_text(folder / "summary.json", json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
