"""Final values read off the published figures (Daruwalla and Lipasti 2024), in per cent of the test samples."""

FINAL = {
    ("mnist", "biohsic"): 91.7,
    ("mnist", "backprop"): 97.6,
    ("cifar10", "biohsic"): 59.9,
    ("cifar10", "backprop"): 79.1,
    ("linear", "biohsic"): 93,
    ("xor", "biohsic"): 96,
}
"""By data set and kind of run."""

BY_WINDOW = {"cifar10": {2: 59.6, 4: 60.0, 8: 59.4, 16: 58.5, 32: 57.2}}
"""By data set and window size."""

STRETCHES = ((1.8, 2.8), (3.0, 4.0), (5.0, 6.0))
"""Simulation time of the reservoir's heat maps, in seconds."""
