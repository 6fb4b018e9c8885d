"""What the README and the pages that it leads to say can be typed and followed."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from projectlib.config.compose import compose, parse, without_hydra
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
SWEEPS = [command for command in COMMANDS if " --multirun " in command and not re.search(r"\.\.\.|=ray", command)]
OWN = [
    command
    for page in sorted((ROOT / "docs" / "extending").glob("*.md"))
    for command in re.findall(r"^biohsic.*", re.sub(r" \\\n +", " ", page.read_text(encoding="utf-8")), re.MULTILINE)
]


@pytest.mark.parametrize("command", NEW_RUNS)
def test_a_command_composes(command):
    """The choices and keys that a command names are there, and what they compose to is sound."""
    script, *words = shlex.split(command)
    validate(without_hydra(compose(script.removesuffix(".py"), words)))


@pytest.mark.parametrize("command", SWEEPS)
def test_the_first_job_of_a_sweep_composes(command):
    script, _, *words = shlex.split(command)
    swept = lambda word: f"{word.get_key_element()}={next(word.sweep_string_iterator())}"  # noqa: E731
    first = [swept(word) if word.is_sweep_override() else word.input_line for word in parse(words)]
    if "search=" in command:
        first.append("search.folder=study")  # its own is named after what Hydra knows of a job
    validate(without_hydra(compose(script.removesuffix(".py"), first)))


@pytest.mark.parametrize("command", OWN)
def test_a_command_with_a_method_of_ones_own_composes(command):
    program, *words = shlex.split(command)
    folder = ROOT / words.pop(words.index("--config-dir") + 1) if "--config-dir" in words else None
    config = {"biohsic": "train-biohsic", "biohsic-lif": "train-lif-biohsic"}[program]
    compose(config, [word for word in words if word != "--config-dir"], folder)


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
