"""Who supplies a hidden layer's modulatory signal: the window itself, or a memory."""

from projectlib.modulators.modulator import Modulator, Sample
from projectlib.modulators.reservoir import ReservoirModulator
from projectlib.modulators.window import WindowModulator

__all__ = ["Modulator", "ReservoirModulator", "Sample", "WindowModulator"]
