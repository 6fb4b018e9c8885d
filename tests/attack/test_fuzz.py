"""A small sample of what ``make attack`` tries."""

import subprocess
import sys
from pathlib import Path


def test_a_sample_of_the_fuzz():
    script = Path(__file__).with_name("fuzz.py")
    counts = ["--bases", "1", "--commands", "16", "--trained", "1", "--folders", "10"]
    words = [sys.executable, "-W", "ignore", str(script), *counts]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 fell" in ended.stdout
