"""What lies between the convolutions of a stream, against torch: what they read, blocks and pulling back."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, layer_norm

from projectlib.engines.cpu.kernels import cnn_stream as kernels
from projectlib.modulators import ClassMeansModulator


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 1, 1, 2), (1, 2, 7, 1)])
def test_neighbourhoods_make_a_convolution_a_product(shape):
    generator = torch.Generator().manual_seed(0)
    h, weight = torch.randn(shape, generator=generator), torch.randn(6, shape[3], 3, 3, generator=generator)
    read = np.full((*shape, 3, 3), np.nan, np.float32)
    kernels.neighbourhoods(h.numpy(), read)
    product = torch.from_numpy(read).flatten(3) @ weight.flatten(1).T
    expected = conv2d(h.permute(0, 3, 1, 2), weight, padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-5)


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
