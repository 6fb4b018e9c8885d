"""Train a network with the local HSIC rule: no error crosses layers.

    python train-biohsic.py data=mnist

Settings: configs/train-biohsic.yaml, and --help.
"""

import hydra

from projectlib.cli.main import launch, run


@hydra.main(version_base="1.3", config_path="configs", config_name="train-biohsic")
def main(config):
    return run(config)


if __name__ == "__main__":
    launch(main)
