"""Train the back-propagation baseline.

    python train-bp.py data=mnist

Settings: configs/train-bp.yaml, and --help.
"""

import hydra

from projectlib.cli.main import launch, run


@hydra.main(version_base="1.3", config_path="configs", config_name="train-bp")
def main(config):
    return run(config)


if __name__ == "__main__":
    launch(main)
