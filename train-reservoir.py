"""Train a reservoir to supply the modulatory signal from working memory.

    python train-reservoir.py

Settings: configs/train-reservoir.yaml, and --help.
"""

import hydra

from projectlib.cli.main import launch, run


@hydra.main(version_base="1.3", config_path="configs", config_name="train-reservoir")
def main(config):
    return run(config)


if __name__ == "__main__":
    launch(main)
