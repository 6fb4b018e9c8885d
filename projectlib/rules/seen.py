"""What a readout of a hidden layer sees of it, for rules that give each layer one."""

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from projectlib.models.cnn import POOL, average


def seen_by_readout(z: Tensor, grid: int | None = None) -> Tensor:
    """Activations as a readout of their layer reads them, (N, features), which is linear in z.

    z: (N, d), or of images (N, H, W, C), which are averaged over 2 x 2 places first, as the next layer reads them.
    grid: they are averaged over grid x grid blocks instead, as memories see them.
    """
    if z.ndim != 4:
        return z.flatten(1)
    if grid is None:
        return average(z, min(POOL, *z.shape[1:3])).flatten(1)
    return adaptive_avg_pool2d(z.permute(0, 3, 1, 2), (min(grid, z.shape[1]), min(grid, z.shape[2]))).flatten(1)
