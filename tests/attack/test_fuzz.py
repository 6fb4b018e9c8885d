"""A small sample of what ``make attack`` tries."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("counts", [(16, 1, 0), (0, 0, 10)], ids=["commands", "folders"])
def test_a_sample_of_the_fuzz(counts):
    script = Path(__file__).with_name("fuzz.py")
    names = ("--commands", "--trained", "--folders")
    words = [word for name, count in zip(names, counts, strict=True) for word in (name, str(count))]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), "--bases", "1", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 fell" in ended.stdout
