"""Convolutions of a stream and what lies between them, against torch: products, blocks and pulling back."""

import math

import pytest
import torch
from torch.nn.functional import conv2d, layer_norm

from projectlib.engines.cpu.convolution import Direct, Winograd, convolution_of
from projectlib.engines.cpu.kernels import cnn_stream as kernels
from projectlib.modulators import ClassMeansModulator


@pytest.mark.parametrize("convolution", [Direct, Winograd])
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 1, 1, 2), (1, 2, 7, 1), (3, 6, 6, 5)])
def test_a_convolution_and_the_gradient_of_its_weight_are_products(shape, convolution):
    """Against torch's in float64 and automatic differentiation; odd sizes end in tiles that are cut."""
    generator = torch.Generator().manual_seed(0)
    num, height, width, channels = shape
    h, weight, bias = (torch.randn(s, generator=generator) for s in (shape, (6, channels, 3, 3), (6,)))
    tiles = num * math.ceil(height / 2) * math.ceil(width / 2)
    products = Direct(h) if convolution is Direct else Winograd(tiles, channels, 6)
    a, gradient = torch.full((num, height, width, 6), torch.nan), torch.full_like(weight, torch.nan)
    products.outputs(h, weight, bias, a)
    exact = weight.double().requires_grad_()
    expected = conv2d(h.double().permute(0, 3, 1, 2), exact, bias.double(), padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(a.double(), expected.detach(), rtol=1e-5, atol=1e-5)

    signal = torch.randn(a.shape, generator=generator)
    expected.backward(signal.double())
    products.weight_gradient(signal, gradient)
    torch.testing.assert_close(gradient.double(), exact.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "channels", "kind"),
    [
        ((1, 16, 16, 128), 256, Winograd),
        ((1, 8, 8, 256), 512, Direct),  # a few tiles
        ((16, 8, 8, 256), 512, Winograd),
        ((1, 32, 32, 3), 128, Direct),  # the first layer
    ],
)
def test_wide_convolutions_of_many_places_are_done_in_tiles(shape, channels, kind):
    assert type(convolution_of(torch.zeros(shape), channels)) is kind


@pytest.mark.parametrize(("height", "width", "grid"), [(4, 4, 2), (5, 7, 3), (2, 2, 3)])
def test_images_are_activated_and_their_blocks_pulled_back(height, width, grid):
    """A signal of blocks that is spread over their places, through layer norm and relu by automatic differentiation."""
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(2, height, width, 6, generator=generator, requires_grad=True)
    z = layer_norm(a.relu(), a.shape[3:], eps=1e-6)
    found, signal = torch.empty_like(z), torch.empty_like(z)
    deviations, means = torch.empty(z.shape[:3]), torch.empty(2, grid, grid, 6)
    kernels.activate_images(a.detach().numpy(), found.numpy(), deviations.numpy(), means.numpy())
    torch.testing.assert_close(found, z.detach(), rtol=1e-5, atol=1e-5)
    memory = ClassMeansModulator(grid=grid)
    expected = torch.stack([memory.averaged(image) for image in z.detach()])
    torch.testing.assert_close(means.flatten(1), expected, rtol=1e-5, atol=1e-5)

    xi = torch.randn(2, grid, grid, 6, generator=generator)
    rows, columns = (torch.arange(size) * grid // size for size in (height, width))
    z.backward(xi[:, rows][:, :, columns] / 2)
    kernels.pull_back_images(*(t.detach().numpy() for t in (a, found, deviations, xi, signal)))
    torch.testing.assert_close(signal, a.grad, rtol=1e-4, atol=1e-6)
