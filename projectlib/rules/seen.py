"""What a readout of a hidden layer sees of it, for rules that give each layer one."""

from torch import Tensor

from projectlib.models.cnn import POOL, average


def seen_by_readout(z: Tensor) -> Tensor:
    """Activations as a readout of their layer reads them, (N, features), which is linear in z.

    z: (N, d), or of images (N, H, W, C), which are averaged over 2 x 2 places first, as the next layer reads them.
    """
    if z.ndim != 4:
        return z.flatten(1)
    return average(z, min(POOL, *z.shape[1:3])).flatten(1)
