"""A sweep on a real Slurm cluster: one job killed, one queued again, one told that its time is up; nothing is lost.

make test-slurm
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import wait_for

from projectlib.sweeps.collect import collect
from tests.slurm.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ["data=digits", "nmodels=1", "engine=eager", "training.nepochs=6", "data.limit=600"]
MINUTES = 60.0


@pytest.fixture
def cluster(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root, for slurmd")
    folder = tmp_path / "slurm"
    folder.mkdir()
    with Cluster(folder) as cluster:
        yield cluster


def first_checkpoint(folder: Path) -> bool:
    return any(folder.glob("checkpoints/epoch-*.pt"))


def process_of(folder: Path) -> int:
    return int(re.search(r"process (\d+)", (folder / ".owner").read_text())[1])


@pytest.mark.slurm
def test_sweep_survives_a_kill_a_requeue_and_a_time_limit(cluster, tmp_path):
    sweep = tmp_path / "sweep"
    script = [sys.executable, str(ROOT / "train-biohsic.py")]
    options = ["hydra/launcher=submitit_slurm", "seed=range(8)", f"hydra.sweep.dir={sweep}"]
    command = [*script, "--multirun", *SETTINGS, *options]
    with open(tmp_path / "first.log", "w") as log:
        submission = subprocess.Popen(command, cwd=tmp_path, env=cluster.env, stdout=log, stderr=log)
    wait_for(cluster.queue, "the array of jobs", 2 * MINUTES)
    array = cluster.queue()[0].split("_")[0]

    for number in (0, 1, 2):
        wait_for(lambda n=number: first_checkpoint(sweep / str(n)), f"a checkpoint of job {number}", 5 * MINUTES)
        if number == 0:
            os.kill(process_of(sweep / "0"), signal.SIGKILL)
        elif number == 1:
            cluster.run("scontrol", "requeue", f"{array}_1")
        else:
            # what Slurm sends before the time limit; scancel asks again until the job has queued itself again
            cluster.start("scancel", "--signal=USR2", f"{array}_2")
    wait_for(lambda: not cluster.queue(), "an empty queue", 15 * MINUTES)

    first = {Path(row["folder"]).name: row for row in collect([sweep])}
    assert {number: row["status"] for number, row in first.items()} == {
        "0": "interrupted",
        **{str(number): "finished" for number in range(1, 8)},
    }
    for number in (1, 2):
        assert (sweep / str(number) / "train-biohsic.log").read_text().count("run folder") > 2, "it ran only once"

    submission.kill()  # without accounting it cannot know that job 0 is gone, and waits
    submission.wait()
    with open(tmp_path / "second.log", "w") as log:
        subprocess.run(command, cwd=tmp_path, env=cluster.env, stdout=log, stderr=log, check=True, timeout=10 * MINUTES)
    assert [row["status"] for row in collect([sweep])] == ["finished"] * 8

    for number in (0, 1, 2):  # the same as if nothing had happened
        alone = tmp_path / f"alone-{number}"
        subprocess.run([*script, *SETTINGS, f"seed={number}", f"hydra.run.dir={alone}"], cwd=tmp_path, check=True)
        assert (sweep / str(number) / "metrics.csv").read_bytes() == (alone / "metrics.csv").read_bytes()
