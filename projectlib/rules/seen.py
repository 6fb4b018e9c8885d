"""What a readout of a hidden layer sees of it, for rules that give each layer one."""

import torch
from torch import Tensor

from projectlib.models.cnn import POOL, average
from projectlib.modulators.memory import block_means


def seen_by_readout(z: Tensor, grid: int | None = None) -> Tensor:
    """Activations as a readout of their layer reads them, (N, features), which is linear in z.

    z: (N, d), or of images (N, H, W, C), which are averaged over 2 x 2 places first, as the next layer reads them.
    grid: they are averaged over grid x grid blocks instead, as memories see them; no more blocks than places.
    """
    if z.ndim != 4:
        return z.flatten(1)
    if grid is None:
        return average(z, min(POOL, *z.shape[1:3])).flatten(1)
    rows, columns = (block_means(size, min(grid, size), z) for size in z.shape[1:3])
    return torch.einsum("rh,nhwc,sw->ncrs", rows, z, columns).flatten(1)
