"""Information-bottleneck Hebbian learning in PyTorch (Daruwalla and Lipasti, 2024)."""


def load(run_folder, device="cpu"):
    """The config and the models of a finished run: see ``projectlib.loading.load``."""
    from projectlib.loading import load

    return load(run_folder, device)
