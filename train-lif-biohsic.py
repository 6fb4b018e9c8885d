"""Train leaky integrators (LIF in the paper) with the local HSIC rule, an update at every time step.

    python train-lif-biohsic.py data=xor

Settings: configs/train-lif-biohsic.yaml, and --help.
"""

from projectlib.cli import launch

if __name__ == "__main__":
    launch("train-lif-biohsic")
