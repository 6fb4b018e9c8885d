"""What the README and the pages that it leads to say can be typed and followed."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from projectlib.config.compose import CONFIGS
from projectlib.config.validation import validate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WRITTEN = [path for path in sorted((ROOT / "docs").glob("*.md")) if path.stem != "table"]
PAGES = [README, *(path.read_text(encoding="utf-8") for path in WRITTEN)]
COMMANDS = sorted(
    {
        found
        for page in PAGES
        for found in re.findall(r"python (train-[a-z-]+\.py [^`#\n]*[^`#\s])", re.sub(r"\\?\n +", " ", page))
    }
)
NEW_RUNS = [command for command in COMMANDS if not re.search(r" (--|resume=|evaluate=)|\.\.\.", command)]


@pytest.mark.parametrize("command", NEW_RUNS)
def test_a_command_composes(command):
    """The choices and keys that a command names are there, and what they compose to is sound."""
    script, *words = shlex.split(command)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        validate(compose(script.removesuffix(".py"), words))


def test_the_readme_names_what_is_there():
    assert len([command for command in NEW_RUNS if command in README]) >= 8
    for link in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / link).exists(), link
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z]+)\b", README)) <= {*targets}


def test_own_stack_of_layers_learns():
    page = ROOT / "docs" / "extending" / "layer.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if "Network(" in block]
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (400,), generator=generator)
    centers = 2 * torch.randn(5, 20, generator=generator)
    samples = centers[labels] + torch.randn(400, 20, generator=generator)
    names = {"samples": samples, "labels": labels}
    torch.manual_seed(0)
    exec(compile(example, page, "exec"), names)
    with torch.no_grad():
        logits = names["network"](samples)
    assert (logits.argmax(1) == labels).float().mean() > 0.9
