"""What the site makes of habits of ours: formulas between dollars, wide figures, parameters described in sentences."""

import re
import textwrap
from html import unescape
from importlib.resources import files
from pathlib import Path
from typing import Any

import griffe
from fontTools import subset
from fontTools.ttLib import TTFont
from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)

FIGURE = re.compile(r'<img [^>]*src="([^"]+)"[^>]*>')
DRAWN = [0x210E, *range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C), 0x221A, 0x2DC, 0x303]
"""What a browser draws for a letter that stands alone, which is a variable, for a root, and for a tilde."""


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw by themselves, and figures that a touch shows in their full size."""

    def mathml(found: re.Match) -> str:
        return convert(unescape(found[3]), display="block" if found[2] == "[" else "inline")

    return FIGURE.sub(r'<a href="\1">\g<0></a>', FORMULA.sub(mathml, html))


def on_post_build(config: Any, **_: Any) -> None:
    """A font that knows how to set formulas, which many systems lack, with no more than the characters of ours."""
    pages = "".join(page.read_text(encoding="utf-8") for page in Path(config.site_dir).rglob("*.html"))
    formulas = unescape("".join(re.findall(r"<math.*?</math>", pages, re.DOTALL)))
    font = TTFont(str(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"))
    subsetter = subset.Subsetter(subset.Options(layout_features=["*"]))
    subsetter.populate(text=formulas, unicodes=DRAWN)
    subsetter.subset(font)
    font.flavor = "woff"
    font.save(Path(config.site_dir, "formulas.woff"))


class Parameters(griffe.Extension):
    """Docstrings as Markdown: ``::`` before an indented block, and a list of what ``name: text.`` describes."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value, names(obj))
        if obj.is_module:
            obj.exports = None  # what a package offers is shown where it is defined, and once


def names(obj: griffe.Object) -> set[str]:
    """What a docstring may describe: a function's parameters, a class's fields and those of its ``__init__``."""
    function = obj.members.get("__init__") if obj.is_class else obj
    parameters = function.parameters if isinstance(function, griffe.Function) else ()
    return {parameter.name.lstrip("*") for parameter in parameters} | (set(obj.members) if obj.is_class else set())


def as_markdown(text: str, described: set[str]) -> str:
    """A docstring with each description of a name in ``described`` as an item of a list, and indented blocks fenced.

    Sentences are two blanks apart; a description lasts to the next one, to ``Returns`` or ``Raises``, or to the end
    of its paragraph.
    """
    parts = re.split(r"(?<=\n\n)((?:^    .*\n?(?:\n(?=    ))*)+)", text, flags=re.MULTILINE)
    for index, part in enumerate(parts):
        if index % 2:
            parts[index] = f"```text\n{textwrap.dedent(part).rstrip()}\n```"
        else:
            parts[index] = "\n\n".join(listed(paragraph, described) for paragraph in re.split(r"\n{2,}", part.strip()))
    return "\n\n".join(filter(None, parts))


def listed(paragraph: str, described: set[str]) -> str:
    """A paragraph with a list of what it describes."""
    paragraph = re.sub(r"::$", ":", re.sub("(``.*?``)|<", lambda found: found[1] or "&lt;", paragraph))
    name = "(?:" + "|".join(sorted(map(re.escape, described), key=len, reverse=True)) + ")"
    item = re.compile(rf"(?:\A|(?<=  )|(?<=\n))({name}(?:(?:, | and ){name})*): ")
    if not described or not item.search(paragraph):
        return paragraph
    markdown = []
    for part in re.split(r"(?<=[.;:)])(?:  |\n)(?=(?:Returns|Raises) )", paragraph, maxsplit=1):
        before, *items = item.split(part)
        pairs = zip(items[::2], items[1::2], strict=True)
        markdown += [before.strip(), "\n".join(f"- {bold(found)}: {' '.join(what.split())}" for found, what in pairs)]
    return "\n\n".join(filter(None, markdown))


def bold(found: str) -> str:
    return ", ".join(f"**`{name}`**" for name in re.split(", | and ", found))
