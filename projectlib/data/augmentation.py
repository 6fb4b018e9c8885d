"""Random crops and horizontal flips as index arithmetic, on the device, without synchronising with the host."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Pad every image, crop it back to its size at a random place, and flip half of the images.

    padding: pixels added on each side.  flip: whether images are mirrored left to right, each with probability
    1/2.  fill: what is padded with, one normalised value per channel; the value of a black pixel makes this equal
    to padding the raw image with zeros.

    Every image of a batch has a crop and a flip of its own; those of a window, which are compared, share the crop.
    Both are drawn anew for every step.
    """

    padding: int
    flip: bool
    fill: tuple[float, ...]

    def pad(self, images: Tensor) -> Tensor:
        """(n, C, H, W) images -> (n, C, H + 2 padding, W + 2 padding), a copy: done once, before training."""
        num, channels, height, width = images.shape
        top = left = self.padding
        padded = images.new_empty(num, channels, height + 2 * top, width + 2 * left)
        padded.copy_(images.new_tensor(self.fill).view(-1, 1, 1).expand_as(padded))
        padded[:, :, top : top + height, left : left + width] = images
        return padded

    def draw(self, steps: int, size: int, num_crops: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Crop offsets (row, column) of the steps, (steps, num_crops, 2) int64, and flips, (steps, size) bool.

        num_crops: ``size``, or 1 for one that all images of a step share.
        """
        crops = torch.randint(2 * self.padding + 1, (steps, num_crops, 2), generator=generator)
        if not self.flip:
            return crops, torch.zeros(steps, size, dtype=torch.bool)
        return crops, torch.randint(2, (steps, size), generator=generator, dtype=torch.bool)

    def read(self, padded: Tensor, indices: Tensor, crops: Tensor, flips: Tensor) -> Tensor:
        """The (N, C, H, W) images at ``indices``, cropped and then flipped.

        padded: what ``pad`` returned.  indices: (N,) int64.  crops: (N, 2) int64, or (1, 2).  flips: (N,) bool.
        """
        _, channels, height, width = padded.shape
        device = padded.device
        rows = crops[:, :1] + torch.arange(height - 2 * self.padding, device=device)
        columns = torch.arange(width - 2 * self.padding, device=device)
        columns = crops[:, 1:] + torch.where(flips[:, None], columns.flip(0), columns)
        return padded[
            indices[:, None, None, None],
            torch.arange(channels, device=device)[:, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]
