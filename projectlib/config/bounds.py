"""Checks of text before it is parsed: deep nesting crashes parsers, and aliases multiply."""

import re
from collections import Counter
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

DEPTH, VALUES, DIGITS, LETTERS = 40, 100_000, 1000, 4000  # of anything that somebody writes, with room to spare
LARGEST_TEXT = 2**22  # bytes of what is read as text
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(LOADER):
    """Reads YAML as OmegaConf does, thirty times as fast where there is the compiled parser."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers  # 1e-4 is a number, 2026-11-24 is text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []  # SafeLoader says what is wrong with others
        names = Counter(key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        if twice := [name for name, count in names.items() if count > 1]:
            raise yaml.constructor.ConstructorError(problem=f"it has the key {twice[0]} twice")
        return super().construct_mapping(node, deep)


def read_text(path: Path) -> str:
    """The text of a file; unlike a plain ``open``, it does not wait for a pipe.

    Raises FileNotFoundError, OSError also for what is no file or larger than ``LARGEST_TEXT``, and ValueError.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is no file")
    if path.exists() and (size := path.stat().st_size) > LARGEST_TEXT:
        raise OSError(f"it has {size:,} bytes; expected at most {LARGEST_TEXT:,}")
    return path.read_text(encoding="utf-8")


@lru_cache(maxsize=1024)
def parse_config(text: str) -> Any:
    """What the text of a config file says; a file that is composed again is parsed once.

    Raises ValueError as ``check_yaml``, and YAMLError, also for a key that is there twice.
    """
    check_yaml(text)
    return yaml.load(text, Loader)


def check_yaml(text: str, aliases: bool = True) -> None:
    """Raises ValueError for a text that nests deeper, or stands for more, than any config does.

    aliases: whether it may repeat parts of itself.  Raises YAMLError where it is no YAML.
    """
    sizes: dict[str, float] = {}  # by anchor, with all that aliases repeat; one that is still open would be endless
    open_nodes: list[tuple[str | None, float]] = [(None, 0)]
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if len(open_nodes) > DEPTH:
                raise ValueError(f"it nests deeper than {DEPTH} levels")
            continue
        if isinstance(event, yaml.AliasEvent):
            if not aliases:
                raise ValueError("it repeats itself by aliases, as no run writes it")
            anchor, size = None, sizes.get(event.anchor, float("inf"))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
            if not event.style and len(event.value) > DIGITS and event.value[0] in "+-0123456789":
                raise ValueError(f"it has a number of {len(event.value)} digits")
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        open_nodes[-1] = (open_nodes[-1][0], open_nodes[-1][1] + size)
        if open_nodes[-1][1] > VALUES:
            raise ValueError(f"it stands for more than {VALUES:,} values")


def override_problem(text: str) -> str | None:
    """Why an override must not reach Hydra's parser, which is slow on long text and crashes on nesting; else None."""
    if len(text) > LETTERS:
        return f"... has {len(text):,} letters; expected at most {LETTERS:,}: put what is longer into a config file"
    if max(accumulate((letter in "[{(") - (letter in "]})") for letter in text), default=0) > DEPTH:
        return f"nests deeper than {DEPTH} levels; expected key=value"
    if re.search(rf"\d{{{DIGITS},}}", text):
        return f"has a number of {DIGITS} digits or more; expected a smaller one"
    return None
