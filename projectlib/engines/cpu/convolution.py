"""A 3 x 3 convolution of images with their channels last, and the gradient of its weight, as products of matrices."""

import torch
from torch import Tensor

from projectlib.engines.cpu.kernels import winograd as kernels
from projectlib.engines.cpu.kernels.cnn_stream import neighbourhoods

FEW_TILES, FEW_CHANNELS = 64, 32  # below either, transforms cost more than the multiplications that they save


class Direct:
    """A product with the matrix of what is read at each place; the gradient is another with the same matrix."""

    def __init__(self, h: Tensor):
        self.read = h.new_empty(*h.shape, 3, 3)

    def outputs(self, h: Tensor, weight: Tensor, bias: Tensor, a: Tensor) -> None:
        """Write a (N, H, W, channels) of h (N, H, W, C)."""
        neighbourhoods(h.numpy(), self.read.numpy())
        torch.addmm(bias, self.rows, weight.flatten(1).T, out=a.flatten(0, 2))

    def weight_gradient(self, signal: Tensor, gradient: Tensor) -> None:
        """Write the gradient of the weight, (channels, C, 3, 3), from that of the newest a (N, H, W, channels)."""
        torch.mm(signal.flatten(0, 2).T, self.rows, out=gradient.flatten(1))

    @property
    def rows(self) -> Tensor:
        return self.read.flatten(3).flatten(0, 2)


class Winograd:
    """Sixteen products over channels, of tiles of 2 x 2 places: 4 multiplications where ``Direct`` has 9.

    See ``kernels.winograd`` for the transforms.  In float32 it is as far from exact numbers as ``Direct`` is.
    """

    def __init__(self, tiles: int, num_in: int, channels: int):
        self.inputs, self.products = torch.empty(16, tiles, num_in), torch.empty(16, tiles, channels)
        self.weight = torch.empty(16, channels, num_in)

    def outputs(self, h: Tensor, weight: Tensor, bias: Tensor, a: Tensor) -> None:
        kernels.transform_inputs(h.numpy(), self.inputs.numpy())
        kernels.transform_weight(weight.flatten(2).numpy(), self.weight.numpy())
        torch.bmm(self.inputs, self.weight.mT, out=self.products)
        kernels.outputs_of(self.products.numpy(), bias.numpy(), a.numpy())

    def weight_gradient(self, signal: Tensor, gradient: Tensor) -> None:
        kernels.transform_signals(signal.numpy(), self.products.numpy())
        torch.bmm(self.products.mT, self.inputs, out=self.weight)
        kernels.weight_gradient_of(self.weight.numpy(), gradient.flatten(2).numpy())


Convolution = Direct | Winograd


def convolution_of(h: Tensor, channels: int) -> Convolution:
    """The faster of the two for images like h (N, H, W, C); it reuses its buffers, which saves page faults."""
    num, height, width, num_in = h.shape
    tiles = num * -(-height // 2) * -(-width // 2)
    is_wide = tiles >= FEW_TILES and min(num_in, channels) >= FEW_CHANNELS
    return Winograd(tiles, num_in, channels) if is_wide else Direct(h)
