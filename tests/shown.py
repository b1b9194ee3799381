"""Code that is shown in a page of Markdown: it runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def blocks(path):
    """The blocks of Python of a page, from first to last."""
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), flags=re.S)


def run(code, capsys, scope=None):
    """The names that a block leaves behind, and what it printed; `scope` has those of the blocks before it."""
    scope = {"__name__": "shown"} if scope is None else scope
    exec(compile(code, "shown", "exec"), scope)
    return scope, capsys.readouterr().out
