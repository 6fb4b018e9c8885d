"""The README's example of a user's own stack of layers, run as it stands there."""

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_own_stack_of_layers_learns():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if "Network(" in block]
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (400,), generator=generator)
    centers = 2 * torch.randn(5, 20, generator=generator)
    samples = centers[labels] + torch.randn(400, 20, generator=generator)
    windows = [(samples[i : i + 6], labels[i : i + 6]) for i in range(395)]
    names = {"windows": windows}
    torch.manual_seed(0)
    exec(compile(example, README, "exec"), names)
    with torch.no_grad():
        logits = names["network"](samples)
    assert (logits.argmax(1) == labels).float().mean() > 0.9
