"""What the site shows runs, and what it makes of docstrings and formulas reads as meant."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NO_GPU

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_tutorial_runs_from_python(tmp_path, monkeypatch):
    """All of its blocks, one after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("tutorial.md", "python"):
        exec(compile(block, "tutorial.md", "exec"), names)
    assert names["logits"].shape == (3, 7, 10)
    assert names["accuracy"]["window"] >= 0.92
    assert names["accuracy"]["delta"] > names["accuracy"]["frozen"]


def test_the_tutorial_runs_from_the_command_line(script, tmp_path):
    for line in "".join(blocks("tutorial.md", "sh")).splitlines():
        _, program, *words = shlex.split(line)
        if program == "-m":
            command = [sys.executable, *line.split()[1:]]
            environment = {**NO_GPU, "PYTHONPATH": str(ROOT)}
            ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert ended.returncode == 0, ended.stderr
        else:
            small = () if "resume" in line else ("nmodels=2", "data.limit=60", "training.nepochs=2", "engine=eager")
            ended = script(program.removesuffix(".py"), *words, *small)
            assert ended.code == 0, ended.output
    assert (tmp_path / "report.html").exists()


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("griffe")
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_list_what_they_describe(hooks):
    text = """A sum, of::

    total = x + y

x, y: (N,) terms: both.  scale: of the sum,
    above 0.  Returns (N,).
Raises ValueError for others.

The <scale>: not a description."""
    expected = """A sum, of:

```text
total = x + y
```

- **`x`**, **`y`**: (N,) terms: both.
- **`scale`**: of the sum, above 0.

Returns (N,).
Raises ValueError for others.

The &lt;scale>: not a description."""
    assert hooks.as_markdown(text, {"x", "y", "scale"}) == expected


def test_formulas_are_mathml(hooks):
    html = '<p><span class="arithmatex">\\(a &lt; b\\)</span></p><div class="arithmatex">\\[x^2\\]</div>'
    rendered = hooks.on_page_content(html)
    assert rendered.count("<math") == 2
    assert "arithmatex" not in rendered
    assert "<mo>&#x0003C;</mo>" in rendered


def test_every_example_is_shown():
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "extending").glob("*.md"))
    shown = re.findall(r'^--8<-- "(examples/.*)"$', pages, re.MULTILINE)
    assert {ROOT / path for path in shown} == {*(ROOT / "examples").rglob("*.py"), *(ROOT / "examples").rglob("*.yaml")}
