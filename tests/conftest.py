"""What several test files share."""

from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # products this small lose more to a second thread than they gain

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture
def reference():
    """Load one file of numbers computed by the published implementation, as tensors by key."""

    def load(name):
        with np.load(REFERENCE / f"{name}.npz") as file:
            return {key: torch.from_numpy(file[key].copy()) for key in file.files}

    return load
