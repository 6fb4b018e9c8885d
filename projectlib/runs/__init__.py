"""A run folder: every name in it, its writers and its readers, checkpoints and resuming."""
