"""Networks of layers and the reservoir: weights and dynamics of one model, nothing of how they learn."""

from projectlib.models.cnn import cnn
from projectlib.models.leaky_integrator import LeakyIntegrator, lif_mlp
from projectlib.models.mlp import linear, mlp
from projectlib.models.network import DynamicLayer, Network
from projectlib.models.reservoir import Reservoir
from projectlib.models.spiking import SpikingLayer, spiking_mlp

__all__ = [
    "DynamicLayer",
    "LeakyIntegrator",
    "Network",
    "Reservoir",
    "SpikingLayer",
    "cnn",
    "lif_mlp",
    "linear",
    "mlp",
    "spiking_mlp",
]
