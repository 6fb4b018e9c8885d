"""The mathematics against the published numbers, double loops and automatic differentiation."""

import math

import numpy as np
import pytest
import torch

from projectlib.hsic import hsic, hsic_bottleneck, kernel_matrix, kernel_row, modulation

TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


def double_loop_kernel(x, sigma):
    rows = x.reshape(len(x), -1).tolist()
    return torch.tensor(
        [[math.exp(-(math.dist(a, b) ** 2) / (2 * sigma**2 * len(a))) for b in rows] for a in rows],
        dtype=torch.float64,
    )


def random_window(generator, num, x_shape, z_shape, num_classes=4):
    x = torch.randn(num, *x_shape, dtype=torch.float64, generator=generator)
    y = torch.nn.functional.one_hot(torch.randint(num_classes, (num,), generator=generator), num_classes)
    z = torch.randn(num, *z_shape, dtype=torch.float64, generator=generator)
    return x, y.double(), z


@pytest.mark.parametrize("name", ["hsic_0", "hsic_1", "hsic_2", "hsic_image"])
def test_published_numbers(reference, name):
    numbers = reference(name)
    x, y, z = numbers["x"], numbers["y"], numbers["z"]
    gamma, sigmas = float(numbers["gamma"]), numbers["sigmas"].tolist()
    kx, ky, kz = (kernel_matrix(a, s) for a, s in zip((x, y, z), sigmas, strict=True))
    torch.testing.assert_close(kx, numbers["kx"], **TOLERANCE)
    torch.testing.assert_close(ky, numbers["ky"], **TOLERANCE)
    torch.testing.assert_close(kz, numbers["kz"], **TOLERANCE)
    xi = modulation(kx, ky, kz, z, gamma, sigmas[2], form="published")
    torch.testing.assert_close(xi, numbers["xi_published"], **TOLERANCE)
    if "hsic" in numbers:
        total, hsic_x, hsic_y = hsic_bottleneck(x, y, z, gamma, sigmas)
        torch.testing.assert_close(total, numbers["hsic"], **TOLERANCE)
        torch.testing.assert_close(hsic_x, numbers["hsic_x"], **TOLERANCE)
        torch.testing.assert_close(hsic_y, numbers["hsic_y"], **TOLERANCE)
        exact = modulation(kx, ky, kz, z, gamma, sigmas[2], form="exact")
        torch.testing.assert_close(exact, numbers["grad_z"][-1], **TOLERANCE)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 4, 5)])
@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_kernel_equals_a_double_loop(shape, sigma):
    x = torch.randn(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k = kernel_matrix(x, sigma)
    torch.testing.assert_close(k, double_loop_kernel(x, sigma), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(kernel_row(x, sigma), k[-1:], rtol=1e-12, atol=1e-14)


def test_hsic_equals_the_trace_written_out():
    generator = torch.Generator().manual_seed(1)
    x, _, z = random_window(generator, 9, (3,), (5,))
    kx, kz = kernel_matrix(x, 0.7), kernel_matrix(z, 1.3)
    centering = torch.eye(9, dtype=torch.float64) - 1 / 9
    expected = torch.trace(kx @ centering @ kz @ centering) / 8**2
    torch.testing.assert_close(hsic(kx, kz), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("seed", range(12))
def test_exact_signal_is_the_gradient_of_the_objective(seed):
    generator = torch.Generator().manual_seed(seed)
    num = 2 + seed * 3
    z_shape = [(seed + 1,), (2, 3, 2)][seed % 2]
    x, y, z = random_window(generator, num, (seed + 2,), z_shape)
    gamma, sigmas = 0.5 + seed, (0.6, 0.4, 0.8)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(hsic_bottleneck(x, y, z, gamma, sigmas)[0], z)
    kernels = [kernel_matrix(a, s) for a, s in zip((x, y, z), sigmas, strict=True)]
    xi = modulation(*kernels, z, gamma, sigmas[2], form="exact")
    torch.testing.assert_close(xi, gradient[-1], rtol=1e-9, atol=1e-12)


def test_published_signal_equals_its_double_loop():
    generator = torch.Generator().manual_seed(3)
    x, y, z = random_window(generator, 7, (4,), (5,))
    gamma, sigmas = 2.0, (0.5, 0.3, 0.9)
    kx, ky, kz = (kernel_matrix(a, s) for a, s in zip((x, y, z), sigmas, strict=True))
    q, num, d = (kx - gamma * ky).tolist(), 7, 5
    c = [q[i][i] - sum(q[i]) / num for i in range(num)]
    expected = sum((c[p] + c[-1]) * 2 * kz[-1, p] / (sigmas[2] ** 2 * d) * (z[-1] - z[p]) for p in range(num - 1)) / (
        num * (num - 1) ** 2
    )
    torch.testing.assert_close(modulation(kx, ky, kz, z, gamma, sigmas[2]), expected, rtol=1e-12, atol=1e-15)
    from_row = modulation(kx, ky, kz[-1:], z, gamma, sigmas[2])
    torch.testing.assert_close(from_row, expected, rtol=1e-12, atol=1e-15)


def test_both_forms_agree_at_a_window_of_two():
    x, y, z = random_window(torch.Generator().manual_seed(4), 2, (6,), (3,))
    kernels = kernel_matrix(x, 0.5), kernel_matrix(y, 0.2), kernel_matrix(z, 1.0)
    published, exact = (modulation(*kernels, z, 2.0, 1.0, form=form) for form in ("published", "exact"))
    torch.testing.assert_close(published, exact, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("form", ["published", "exact"])
def test_everything_works_under_vmap(form):
    generator = torch.Generator().manual_seed(5)
    x, y, _ = random_window(generator, 6, (4,), (1,))
    z = torch.randn(3, 6, 2, 5, dtype=torch.float64, generator=generator)

    def one(z):
        kernels = kernel_matrix(x, 0.5), kernel_matrix(y, 0.3), kernel_matrix(z, 1.0)
        return modulation(*kernels, z, 2.0, 1.0, form=form), hsic_bottleneck(x, y, z, 2.0, (0.5, 0.3, 1.0))

    batched = torch.vmap(one)(z)
    singly = [one(member) for member in z]
    torch.testing.assert_close(batched[0], torch.stack([s[0] for s in singly]))
    torch.testing.assert_close(batched[1][0], torch.stack([s[1][0] for s in singly]))


def test_unknown_form_is_named():
    k, z = torch.eye(3), torch.randn(3, 2)
    with pytest.raises(ValueError, match="'sharp'; expected one of published, exact"):
        modulation(k, k, k, z, 1.0, 1.0, form="sharp")


def test_float32_stays_near_float64_and_non_negative():
    generator = np.random.default_rng(6)
    for scale in (1e-3, 1.0, 1e3):
        x = torch.from_numpy(generator.normal(size=(12, 50)) * scale + 10 * scale)
        for sigma in (1e-2, 1.0, 1e2):
            k = kernel_matrix(x.float(), sigma)
            assert k.isfinite().all()
            assert (k.diagonal() == 1).all()
            torch.testing.assert_close(k.double(), kernel_matrix(x.float().double(), sigma), rtol=0, atol=1e-5)
            assert hsic(k, k) >= -1e-7
