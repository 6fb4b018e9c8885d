"""Information-bottleneck Hebbian learning in PyTorch (Daruwalla and Lipasti, 2024)."""
