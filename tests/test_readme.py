"""What the README and the pages that it leads to say can be typed and followed."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch

from projectlib.config.compose import compose, parse, without_hydra
from projectlib.config.experiments import read_experiment
from projectlib.config.validation import validate

ROOT = Path(__file__).parents[1]


def unwrapped(page):
    """A page whose commands have a line each, in its text and in its blocks."""
    parts = re.sub(r"\\?\n +", " ", page).split("```")
    parts[::2] = (re.sub("`[^`]+`", lambda code: code[0].replace("\n", " "), text) for text in parts[::2])
    return "```".join(parts)


README = (ROOT / "README.md").read_text(encoding="utf-8")
WRITTEN = [path for path in sorted((ROOT / "docs").glob("*.md")) if path.stem != "table"]
PAGES = [unwrapped(page) for page in (README, *(path.read_text(encoding="utf-8") for path in WRITTEN))]
COMMANDS = sorted(
    {found for page in PAGES for found in re.findall(r"python (train-[a-z-]+\.py [^`#\n]*[^`#\s])", page)}
)
NEW_RUNS = [command for command in COMMANDS if not re.search(r" (--|resume=|evaluate=)|\.\.\.", command)]
SWEEPS = [command for command in COMMANDS if " --multirun " in command and not re.search(r"\.\.\.|=ray", command)]


def table_commands(page):
    """What the rows of a table add to the command in a head that ends in "and"; some to that of the row before."""
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        heads, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines())
        for column in (column for column, head in enumerate(heads) if re.search("`.* and$", head)):
            usual = before = typed(heads[column])
            for cell in (row[column] for row in rows if "`" in row[column]):
                words = [*(before if re.match("and|the same", cell) else usual), *typed(cell)]
                *_, script = ["train-biohsic.py", *(word for word in words if word.endswith(".py"))]
                before = [script, *(word for word in words if "=" in word)]
                yield shlex.join(before)


def typed(cell):
    """The words in a cell's code."""
    return shlex.split(" ".join(re.findall("`(.*?)`", cell)))


ROWS = sorted({command for page in PAGES for command in table_commands(page)})
OWN = [
    command
    for page in sorted((ROOT / "docs" / "extending").glob("*.md"))
    for command in re.findall(r"^biohsic.*", re.sub(r" \\\n +", " ", page.read_text(encoding="utf-8")), re.MULTILINE)
]


MODULES = sorted(
    {
        found
        for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
        for found in re.findall(
            r"python -m ((?:projectlib|benchmarks)\b[^`#\n]*[^`#\s])", unwrapped(path.read_text(encoding="utf-8"))
        )
    }
)


@pytest.mark.parametrize("command", [*NEW_RUNS, *ROWS])
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


class Parsed(BaseException):
    """Arguments that a parser takes, instead of what would be done with them."""


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", MODULES)
def test_a_module_takes_the_arguments(command, monkeypatch):
    module, *words = shlex.split(command)
    if module.startswith("benchmarks.") and words:  # of which these take overrides
        script = "train-lif-biohsic" if "=" in words[0] else words.pop(0)
        compose(script, ["data=xor", *words])
        return
    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)

        def stop(self, arguments=None, parse=parse):
            raise Parsed(parse(self, arguments))

        monkeypatch.setattr(argparse.ArgumentParser, name, stop)
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(Parsed) as parsed:
        runpy.run_module(module, run_name="__main__")
    for word in getattr(parsed.value.args[0], "names", []):
        assert "=" in word or read_experiment(word)


def test_the_readme_names_what_is_there():
    assert len([command for command in NEW_RUNS if command in README]) >= 8
    for link, _, anchor in re.findall(r"\]\((?!http)([^)#]+)(#([^)]+))?", README):
        assert (ROOT / link).exists(), link
        if anchor:
            headings = re.findall("^#+ (.*)", (ROOT / link).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], link
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
