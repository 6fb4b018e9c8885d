"""Who supplies a hidden layer's modulatory signal: the window itself, or a memory."""

from projectlib.modulators.class_means import ClassMeansModulator
from projectlib.modulators.covariance import CovarianceModulator
from projectlib.modulators.delta import DeltaModulator
from projectlib.modulators.memory import Memory
from projectlib.modulators.modulator import Modulator, Sample
from projectlib.modulators.remembered import RememberedModulator
from projectlib.modulators.reservoir import ReservoirModulator
from projectlib.modulators.window import WindowModulator

__all__ = [
    "ClassMeansModulator",
    "CovarianceModulator",
    "DeltaModulator",
    "Memory",
    "Modulator",
    "RememberedModulator",
    "ReservoirModulator",
    "Sample",
    "WindowModulator",
]
