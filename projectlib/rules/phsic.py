"""Plausible HSIC: the kernelized bottleneck whose third factor is one number per pair of samples."""

from typing import Any

import torch
from torch import Tensor

from projectlib.errors import UserError
from projectlib.hsic import SMALLEST, check_gamma, cosine_matrix, plausible_hsic
from projectlib.rules.batch import BatchRule
from projectlib.rules.local import Hidden
from projectlib.values import is_count, is_number, require


class PHSIC(BatchRule):
    """Hidden layers descend the objective of Pogodin and Latham (2020) over a plain batch::

        pHSIC(U, U) - gamma pHSIC(Y, U),    pHSIC(A, B) = mean_ij (k(a_i, a_j) - mean k(A, A)) k(b_i, b_j)

    with cosine similarities k of what is centred and one-hot labels Y.  U are groups of c neurons (of images, of
    channels with all their places), each with the power of its divisive normalisation::

        u_g = ((delta + sum_{i in g} (z_i - mean_g z)^2) / c)^p

    or, without groups, the activations Z themselves.

    gamma: weight of the label term.  groups: how many a layer has, at least 3, as the cosine of two centred numbers
    is 1 or -1; each of the same size, at least 2; None for none.  power: p.  smoothing: delta.  accumulate: samples in
    a batch, see ``Rule.make_blocks``.  Raises UserError for invalid values.
    """

    transports = "how alike labels are"
    kernel = "phsic"

    def __init__(
        self,
        gamma: float = 2.0,
        groups: int | None = 32,
        power: float = 0.5,
        smoothing: float = 1.0,
        accumulate: int = 1,
    ):
        check_gamma(gamma)
        is_groups = groups is None or (is_count(groups) and groups >= 3)
        require(is_groups, "rule.groups", groups, "a whole number of at least 3, or null for no groups")
        require(is_number(power) and power > 0, "rule.power", power, "a number above 0")
        is_normal = is_number(smoothing) and smoothing >= SMALLEST
        require(is_normal, "rule.smoothing", smoothing, f"a number of at least {SMALLEST:g}")
        self.label_weight, self.groups, self.power, self.smoothing = gamma, groups, power, smoothing
        self.make_blocks(accumulate)

    def hidden_state(self, hidden: Hidden, z: Tensor, generator: torch.Generator) -> tuple:
        """Nothing.  Raises UserError for a layer that cannot be cut into groups."""
        width = z.shape[-1] if z.ndim == 4 else z[0].numel()
        if self.groups and (width % self.groups or z[0].numel() // self.groups < 2):
            raise UserError(
                f"rule.groups is {self.groups}, but layer {hidden.index} has {width} neurons or channels; expected a "
                "number that cuts each hidden layer into equal groups of at least 2, or null for no groups"
            )
        return ()

    def prepare(self, x: Tensor, y: Tensor) -> Tensor:
        """k(Y, Y), (N, N)."""
        return cosine_matrix(y)

    def objective(self, z: Tensor, context: Any) -> Tensor:
        k = cosine_matrix(self.grouped(z))
        return plausible_hsic(k, k) - self.label_weight * plausible_hsic(context, k)

    def grouped(self, z: Tensor) -> Tensor:
        """U (N, groups) of activations z (N, d) or of images (N, H, W, C); z itself without groups."""
        if self.groups is None:
            return z
        if z.ndim == 4:
            z = z.permute(0, 3, 1, 2)
        members = z.reshape(len(z), self.groups, -1)
        squares = (members - members.mean(2, keepdim=True)).square().sum(2)
        return ((squares + self.smoothing) / members.shape[2]) ** self.power
