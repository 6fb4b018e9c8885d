"""YAML of a stranger, looked at before it is built: nesting crashes the compiled parser, aliases multiply."""

from typing import Any

import yaml

DEPTH, VALUES, DIGITS = 100, 100_000, 1000  # of anything that somebody writes, with room to spare
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
