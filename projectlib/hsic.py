"""Gaussian kernels, HSIC, the information bottleneck and the modulatory signal: pure functions, no state.

Names follow the papers: ``x`` inputs, ``y`` one-hot labels, ``z`` activations, ``kx, ky, kz`` their kernel
matrices, ``N`` samples in a window with the newest last, ``d`` the number of features of one sample.
Every function works in float32 and float64, on any device and under ``torch.vmap``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from projectlib.values import is_number, require

FORMS = ("published", "exact", "parzen", "contrastive")
LABEL_FORMS = ("parzen", "contrastive")  # forms that compare activations and labels, and no inputs
SMALLEST, LARGEST = 1e-15, 1e15  # bandwidths whose squares are still float32 numbers
COSINE_EPSILON = 1e-12  # of a squared length, so that the cosine of a constant sample has a gradient
BANDWIDTH = f"from {SMALLEST:g} to {LARGEST:g}"


def kernel_matrix(x: Tensor, sigma: float) -> Tensor:
    """Gaussian kernel between all pairs of samples, ``k(a, b) = exp(-|a - b|^2 / (2 sigma^2 d))``.

    x: (N, ...) samples, all features of one are flattened into d.  sigma: bandwidth per unit of sqrt(d).
    Returns (N, N), symmetric with ones on its diagonal.

    Distances are taken from differences and not from inner products, so that duplicate samples have a
    kernel of exactly 1 and the absolute error against float64 stays near the rounding of the inputs.
    """
    return gaussian(squared_distances(x), sigma, x[0].numel())


def squared_distances(x: Tensor) -> Tensor:
    """``|a - b|^2`` between all pairs of samples (N, ...), from their differences: (N, N)."""
    flat = x.flatten(1)
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()


def kernel_row(x: Tensor, sigma: float) -> Tensor:
    """The last row of ``kernel_matrix(x, sigma)``, (1, N): the newest sample against all of its window."""
    distance = torch.linalg.vector_norm(x - x[-1:], dim=tuple(range(1, x.ndim)))
    return gaussian(distance[None].square(), sigma, x[0].numel())


def gaussian(squared_distance: Tensor, sigma: float, num_features: int) -> Tensor:
    """``exp(-squared_distance / (2 sigma^2 d))``, of any shape."""
    return torch.exp(squared_distance / (-2 * sigma**2 * num_features))


def cosine_matrix(x: Tensor) -> Tensor:
    """Cosine similarity of all pairs of samples, each around its own mean, ``k(a, b) = a~ . b~ / (|a~| |b~|)``.

    x: (N, ...) samples, all features of one are flattened; a~ = a - mean a.  Returns (N, N); 0 for a constant sample.
    """
    flat = x.flatten(1)
    centered = flat - flat.mean(1, keepdim=True)
    unit = centered / (centered.square().sum(1, keepdim=True) + COSINE_EPSILON).sqrt()
    return unit @ unit.mT


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


def plausible_hsic(ka: Tensor, kb: Tensor) -> Tensor:
    """pHSIC, ``mean_ij (ka_ij - mean ka) kb_ij`` of two (N, N) kernel matrices (Pogodin and Latham 2020).

    HSIC with one mean over all pairs in the place of the means of rows and columns.  Returns a scalar.
    """
    return ((ka - ka.mean()) * kb).mean()


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
    kx: Tensor | None, ky: Tensor, kz: Tensor | None, z: Tensor, gamma: float, sigma: float, form: str = "published"
) -> Tensor:
    """The modulatory signal xi: what a layer's newest sample receives, one number per neuron.

    kx, ky: (N, N) kernel matrices of inputs and labels.  kz: (N, N) kernel matrix of z, of which only the last row is
    read, so ``kernel_row``'s (1, N) will do.  z: (N, ...) activations, N at least 2.  sigma: bandwidth of kz.
    form: of ``modulation_weights``, which give

        xi = 2 / (sigma^2 d (N-1)^2) sum_p c_p k(z_N, z_p) (z_N - z_p)

    or "parzen", the gradient of ``-log(S_same / S_all)``, an estimate of ``-log p(y_N | z_N)``, by ``parzen_weights``::

        xi = 1 / (sigma^2 d) sum_p c_p k(z_N, z_p) (z_N - z_p)

    or "contrastive", that of the supervised contrastive loss, by ``contrastive_weights`` in the place of c_p k.  These
    two read neither kx nor kz, and never divide by a sum of kernels, which a small sigma makes 0.

    Returns the shape of one z.  Raises ValueError for another form.
    """
    width = sigma**2 * z[0].numel()
    differences = z[-1] - z  # the newest sample's own term vanishes with z_N - z_N
    if form in LABEL_FORMS:
        log_k = differences.flatten(1).square().sum(1) / (-2 * width)
        weights_of = parzen_weights if form == "parzen" else contrastive_weights
        weights = weights_of(log_k, ky[-1] == 1) / width
    else:
        assert kx is not None, f"the form {form} compares inputs"
        assert kz is not None, f"the form {form} reads kz"
        weights = modulation_weights(kx, ky, gamma, form) * kz[-1] * (2 / (width * (len(z) - 1) ** 2))
    return torch.tensordot(weights, differences, dims=1)


def parzen_weights(log_k: Tensor, same: Tensor) -> Tensor:
    """``c_p k_p`` (N,) of the Parzen-window signal, 0 for the newest sample itself and where none has its label::

        c_p = [y_p = y_N] / S_same - 1 / S_all,    S_all = sum_{p<N} k_p,    S_same = sum_{p<N: y_p = y_N} k_p

    the softmax of log k over the others of the newest label, less that over all others.

    log_k: (N,) logarithms of the kernels of z_N with each z_p.  same: (N,) whether y_p = y_N.
    Goldberger et al. 2004 (neighbourhood components), Frosst et al. 2019 (soft nearest neighbours).
    """
    others = all_but_last(log_k)
    alike = others & same
    weights = mask_exponents(log_k, alike).softmax(-1) - mask_exponents(log_k, others).softmax(-1)
    return torch.where(alike.any(), weights, 0)


def contrastive_weights(log_k: Tensor, same: Tensor) -> Tensor:
    """What the supervised contrastive loss weights ``z_N - z_p`` by, (N,), as ``parzen_weights``::

        [y_p = y_N] / n_same - k_p / S_all,    n_same how many of p < N have the newest label,  S_all = sum_{p<N} k_p

    Khosla et al. 2020, L_out of the newest sample, where activations are of one length (after layer norm): then k
    is ``exp(z_N . z_p / (tau d))`` up to a factor, of the temperature ``tau = sigma^2``.  Their L_in gives
    ``parzen_weights``.
    """
    others = all_but_last(log_k)
    alike = others & same
    weights = alike.to(log_k.dtype) / alike.sum().clamp(min=1) - mask_exponents(log_k, others).softmax(-1)
    return torch.where(alike.any(), weights, 0)


def all_but_last(samples: Tensor) -> Tensor:
    """(N,) True, but False for the last of N samples."""
    return torch.arange(len(samples), device=samples.device) < len(samples) - 1


def mask_exponents(exponents: Tensor, keep: Tensor) -> Tensor:
    """The exponents where ``keep`` holds, else the lowest float: nearly -inf to a softmax, finite if none is kept."""
    return exponents.masked_fill(~keep, torch.finfo(exponents.dtype).min)


def modulation_weights(kx: Tensor, ky: Tensor, gamma: float, form: str = "published") -> Tensor:
    """The part of the modulatory signal that inputs and labels alone determine: weights c (N,), one per sample.

    kx, ky: (N, N) kernel matrices of inputs and labels.

    ``exact``, which makes xi the gradient of the objective with respect to the newest z_N::

        c_p = -A[N,p],    A = H (Kx - gamma Ky) H

    ``published``, as released with the paper (equal at N = 2)::

        c_p = (C[p,p] + C[N,N]) / N,    C[i,j] = Q[i,j] - mean_k Q[j,k],    Q = Kx - gamma Ky

    Raises ValueError for another form.
    """
    q = kx - gamma * ky
    if form == "published":
        diagonal = q.diagonal() - q.mean(1)
        return (diagonal + diagonal[-1]) / len(q)
    if form == "exact":
        return -center(q)[-1]
    raise ValueError(f"form is {form!r}; expected one of {', '.join(FORMS)}")


def check_objective(gamma: Any, sigmas: Any) -> tuple[float, tuple[float, float, float]]:
    """gamma, and sigmas as a tuple: floats, for kernels compile 2 and 2.0 once each.

    Raises UserError unless they are a finite number and three bandwidths.
    """
    check_gamma(gamma)
    is_triple = isinstance(sigmas, Sequence) and len(sigmas) == 3 and all(map(is_bandwidth, sigmas))
    require(is_triple, "hsic.sigmas", sigmas, f"three bandwidths (of inputs, labels and activations) {BANDWIDTH}")
    return float(gamma), (float(sigmas[0]), float(sigmas[1]), float(sigmas[2]))


def check_gamma(gamma: Any) -> float:
    """gamma.  Raises UserError unless it is a finite number."""
    require(is_number(gamma), "hsic.gamma", gamma, "a finite number, the weight of the label term")
    return float(gamma)


def check_sigma(sigma: Any) -> float:
    """sigma.  Raises UserError unless it is a bandwidth."""
    require(is_bandwidth(sigma), "hsic.sigma", sigma, f"a bandwidth {BANDWIDTH}")
    return float(sigma)


def check_form(form: Any) -> str:
    """form.  Raises UserError unless it is one of ``FORMS``."""
    require(form in FORMS, "hsic.form", form, " or ".join(FORMS))
    return form


def is_bandwidth(value: Any) -> bool:
    return is_number(value) and SMALLEST <= value <= LARGEST
