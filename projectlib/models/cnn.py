"""Convolutional network, ``z = LN over channels of relu(conv3x3(h))``, halved between layers."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from projectlib.errors import UserError
from projectlib.models.mlp import Readout
from projectlib.models.network import Network, check_features, lecun_normal_, normalized_relu

POOL = 2


class ConvLayer(nn.Module):
    """``z = LN over channels of relu(conv3x3(pool(h)))``: (N, H, W, C) -> (N, H/pool, W/pool, channels).

    The layer pools what it receives and not what it returns: z, its kernel and its signal are unpooled.
    Channels are last, as layer norm reads them and as convolutions are fastest: nothing is copied between layers.
    """

    def __init__(self, num_in: int, channels: int, pool: int, generator: torch.Generator):
        super().__init__()
        self.pool = pool
        self.conv = cast(nn.Conv2d, nn.utils.skip_init(nn.Conv2d, num_in, channels, kernel_size=3, padding=1))
        lecun_normal_(self.conv.weight, generator)
        nn.init.zeros_(cast(Tensor, self.conv.bias))

    def forward(self, h: Tensor) -> Tensor:
        a = self.conv(average(h, self.pool))
        return normalized_relu(a.permute(0, 2, 3, 1))


class ImageLayer(ConvLayer):
    """The first convolution, which reads images as they are stored: (N, C, H, W) -> (N, H, W, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1).contiguous())


class PooledReadout(Readout):
    """``W pool(h) + b`` over all pixels and channels: (N, H, W, C) -> (N, num_classes)."""

    def flatten(self, h: Tensor) -> Tensor:
        """What it reads of h: pooled, (N, features)."""
        return average(h, POOL).permute(0, 2, 3, 1).flatten(1)

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(self.flatten(h))


def average(h: Tensor, pool: int) -> Tensor:
    """Average pooling of (N, H, W, C), and the dimensions in torch's order: (N, C, H/pool, W/pool)."""
    h = h.permute(0, 3, 1, 2)
    return avg_pool2d(h, pool) if pool > 1 else h


def cnn(input_shape: Sequence[int], num_classes: int, features: Sequence[int], generator: torch.Generator) -> Network:
    """Convolutional layers of ``features`` channels each and a readout, with average pooling by 2 after each layer.

    input_shape: (C, H, W) of one image.  generator: draws the weights, first layer first.
    Raises UserError where the input is no image or too small to be halved once per layer.
    """
    if len(input_shape) != 3:
        raise UserError(
            f"model=cnn got samples of shape {tuple(input_shape)}; expected images (C, H, W): use model=mlp"
        )
    num_channels, height, width = input_shape
    if not check_features(features):
        raise UserError("model.features of model=cnn is empty; expected at least one layer: use model=linear")
    scale = POOL ** len(features)
    if min(height, width) < scale:
        raise UserError(
            f"model.features has {len(features)} layers, each halves the image, but images are {height}x{width}; "
            f"expected at most {int(math.log2(min(height, width)))} layers"
        )
    hidden = [ImageLayer(num_channels, features[0], 1, generator)]
    hidden += [ConvLayer(num_in, num_out, POOL, generator) for num_in, num_out in pairwise(features)]
    for _ in features:
        height, width = height // POOL, width // POOL
    return Network(*hidden, PooledReadout(features[-1] * height * width, num_classes, generator))
