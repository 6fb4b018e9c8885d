"""Gaussian kernels, HSIC, the information bottleneck and the modulatory signal: pure functions, no state.

Names follow the papers: ``x`` inputs, ``y`` one-hot labels, ``z`` activations, ``kx, ky, kz`` their kernel
matrices, ``N`` samples in a window with the newest last, ``d`` the number of features of one sample.
Every function works in float32 and float64, on any device and under ``torch.vmap``.
"""

import torch
from torch import Tensor

FORMS = ("published", "exact")


def kernel_matrix(x: Tensor, sigma: float) -> Tensor:
    """Gaussian kernel between all pairs of samples, ``k(a, b) = exp(-|a - b|^2 / (2 sigma^2 d))``.

    x: (N, ...) samples, all features of one are flattened into d.  sigma: bandwidth per unit of sqrt(d).
    Returns (N, N), symmetric with ones on its diagonal.

    Distances are taken from differences and not from inner products, so that duplicate samples have a
    kernel of exactly 1 and the absolute error against float64 stays near the rounding of the inputs.
    """
    flat = x.flatten(1)
    squared = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()
    return gaussian(squared, sigma, flat.shape[1])


def kernel_row(x: Tensor, sigma: float) -> Tensor:
    """The last row of ``kernel_matrix(x, sigma)``, (1, N): the newest sample against all of its window."""
    distance = torch.linalg.vector_norm(x - x[-1:], dim=tuple(range(1, x.ndim)))
    return gaussian(distance[None].square(), sigma, x[0].numel())


def gaussian(squared_distance: Tensor, sigma: float, num_features: int) -> Tensor:
    """``exp(-squared_distance / (2 sigma^2 d))``, of any shape."""
    return torch.exp(squared_distance / (-2 * sigma**2 * num_features))


def center(k: Tensor) -> Tensor:
    """``H K H`` of a square (N, N) matrix with ``H = I - 11'/N``."""
    k = k - k.mean(0, keepdim=True)
    return k - k.mean(1, keepdim=True)


def hsic(kx: Tensor, kz: Tensor) -> Tensor:
    """Biased estimate ``tr(Kx H Kz H) / (N - 1)^2`` (Gretton et al. 2005) from two (N, N) kernel matrices.

    Both are centred before they are multiplied, which is the same sum (H is a projection) with less rounding.
    Returns a scalar, 0 for a single sample.
    """
    return (center(kx) * center(kz).mT).sum() / max(kx.shape[-1] - 1, 1) ** 2


def hsic_bottleneck(
    x: Tensor, y: Tensor, z: Tensor, gamma: float, sigmas: tuple[float, float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """The objective of one layer, ``HSIC(X, Z) - gamma HSIC(Y, Z)``, and its two parts.

    x, y, z: (N, ...) inputs, one-hot labels, activations.  sigmas: bandwidths of x, y and z.
    Returns three scalars (total, hsic_x, hsic_y).
    """
    sigma_x, sigma_y, sigma_z = sigmas
    kz = kernel_matrix(z, sigma_z)
    hsic_x = hsic(kernel_matrix(x, sigma_x), kz)
    hsic_y = hsic(kernel_matrix(y, sigma_y), kz)
    return hsic_x - gamma * hsic_y, hsic_x, hsic_y


def modulation(
    kx: Tensor, ky: Tensor, kz: Tensor, z: Tensor, gamma: float, sigma: float, form: str = "published"
) -> Tensor:
    """The modulatory signal xi: what a layer's newest sample receives, one number per neuron.

    kx, ky: (N, N) kernel matrices of inputs and labels.  kz: (N, N) kernel matrix of z, of which only the
    last row is read, so the (1, N) of ``kernel_row`` does too.  z: (N, ...) activations.  sigma: bandwidth
    of kz.
    Returns the shape of one z.

    ``exact``, the gradient of the objective with respect to the newest z_N::

        A  = H (Kx - gamma Ky) H
        xi = -2 / (sigma^2 d (N-1)^2) sum_p A[N,p] k(z_N, z_p) (z_N - z_p)

    ``published``, as released with the paper (equal at N = 2)::

        alpha_p = 2 k(z_N, z_p) / (sigma^2 d) (z_N - z_p)
        C[i,j]  = Q[i,j] - mean_k Q[j,k],    Q = Kx - gamma Ky
        xi      = (sum_{p<N} C[p,p] alpha_p + C[N,N] sum_{p<N} alpha_p) / (N (N-1)^2)

    Raises ValueError for another form.
    """
    num = z.shape[0]
    q = kx - gamma * ky
    if form == "published":
        diagonal = q.diagonal() - q.mean(1)
        weight = (diagonal + diagonal[-1]) / num
    elif form == "exact":
        weight = -center(q)[-1]
    else:
        raise ValueError(f"form is {form!r}; expected one of {', '.join(FORMS)}")
    weight = weight * kz[-1] * (2 / (sigma**2 * z[0].numel() * (num - 1) ** 2))
    # the newest sample's own term vanishes with z_N - z_N
    return torch.tensordot(weight, z[-1] - z, dims=1)
