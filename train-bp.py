"""Train the back-propagation baseline.

    python train-bp.py data=mnist

Settings: configs/train-bp.yaml, and --help.
"""

from projectlib.cli import launch

if __name__ == "__main__":
    launch("train-bp")
