"""Similarity matching: samples shall be as alike in every hidden layer as their labels are."""

from torch import Tensor

from projectlib.hsic import cosine_matrix
from projectlib.rules.batch import BatchRule

EPSILON = 1e-6  # of a variance, whose root has no slope at 0


class SimilarityMatching(BatchRule):
    """Hidden layers descend the similarity matching loss of Nokland and Eidnes (2019), "sim", of a plain batch::

        L = mean_ij (S(Z)_ij - S(Y)_ij)^2,    S(A)_ij = cosine of a_i - mean a_i and a_j - mean a_j

    with one-hot labels Y.  Of images Z are the standard deviations of each channel over its places.

    accumulate: samples in a batch, see ``Rule.make_blocks``.
    """

    transports = "how alike labels are"
    kernel = "similarity-matching"

    def __init__(self, accumulate: int = 1):
        self.make_blocks(accumulate)

    def prepare(self, x: Tensor, y: Tensor) -> Tensor:
        """S(Y), (N, N)."""
        return cosine_matrix(y)

    def objective(self, z: Tensor, context: Tensor) -> Tensor:
        return (cosine_matrix(summarized(z)) - context).square().mean()


def summarized(z: Tensor) -> Tensor:
    """z (N, d) itself; of images (N, H, W, C) the standard deviation over places of each channel, (N, C)."""
    return (z.flatten(1, 2).var(1) + EPSILON).sqrt() if z.ndim == 4 else z
