"""Metrics of a step: per-layer HSIC."""

from torch import Tensor

from projectlib.hsic import check_objective, hsic_bottleneck


class HSICMonitor:
    """The objective of every layer, readout included: ``HSIC(X, Z)``, ``HSIC(Y, Z)`` and their balance.

    gamma, sigmas: as in the rule.
    """

    def __init__(self, gamma: float, sigmas: tuple[float, float, float]):
        self.gamma, self.sigmas = check_objective(gamma, sigmas)

    def names(self, num_layers: int) -> tuple[str, ...]:
        return tuple(f"{part}_layer{i}" for i in range(num_layers) for part in ("hsic", "hsicx", "hsicy"))

    def __call__(self, outputs: list[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
        """Three scalars per layer, in the order of ``names``.  outputs: (N, ...) of every layer."""
        return [part for z in outputs for part in hsic_bottleneck(x, y, z, self.gamma, self.sigmas)]
