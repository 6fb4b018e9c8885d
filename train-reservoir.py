"""Train a reservoir to supply the modulatory signal from working memory.

    python train-reservoir.py

Settings: configs/train-reservoir.yaml, and --help.
"""

from projectlib.cli import launch

if __name__ == "__main__":
    launch("train-reservoir")
