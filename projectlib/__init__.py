"""Information-bottleneck Hebbian learning in PyTorch (Daruwalla and Lipasti, 2024)."""


def load(run_folder, device="cpu"):
    """The config and the models of a finished run: see ``projectlib.runs.load.load``."""
    from projectlib.runs.load import load

    return load(run_folder, device)
