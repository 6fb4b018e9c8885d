"""Train a network with the local HSIC rule: no error crosses layers.

    python train-biohsic.py data=mnist

Settings: configs/train-biohsic.yaml, and --help.
"""

from projectlib.cli import launch

if __name__ == "__main__":
    launch("train-biohsic")
