"""Information-bottleneck Hebbian learning in PyTorch (Daruwalla and Lipasti, 2024)."""


def train(config_name, *overrides, config_dir=None):
    """Train a config in a run folder, and load the run: see ``projectlib.cli.api.train``."""
    from projectlib.garbage import paused_collector

    with paused_collector():  # seconds of imports
        from projectlib.cli.api import train

    return train(config_name, *overrides, config_dir=config_dir)


def load(run_folder, device="cpu", plugins=(), config_dir=None):
    """The config and the models of a run at its last checkpoint: see ``projectlib.runs.load.load``."""
    from projectlib.runs.load import load

    return load(run_folder, device, plugins, config_dir)
