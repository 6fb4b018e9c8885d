"""Train leaky integrate-and-fire layers with the local HSIC rule, an update at every time step.

    python train-lif-biohsic.py data=xor

Settings: configs/train-lif-biohsic.yaml, and --help.
"""

import hydra

from projectlib.cli.main import launch, run


@hydra.main(version_base="1.3", config_path="configs", config_name="train-lif-biohsic")
def main(config):
    return run(config)


if __name__ == "__main__":
    launch(main)
