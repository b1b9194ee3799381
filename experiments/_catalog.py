"""What a config can name, a line each, from the first lines of docstrings."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctrain_jax import models, streams
from experiments import _build

ROOT = Path(__file__).parents[1]
_WIDTH = 118


def catalog() -> str:
    """Everything that a config can name, by the key that names it."""
    sections = {
        "config.methods": _first_lines(_build.METHODS),
        "config.scenario.name": _first_lines({name: getattr(streams, name) for name in _build.SCENARIOS}),
        "config.source.name": _first_lines({name: getattr(streams, name) for name in _build.SOURCES}),
        "config.model.name": _first_lines({name: getattr(models, name) for name in _build.MODELS}),
        "config.optimizer.name": _first_lines(vars(_build.OPTIMIZERS)),
        "--config": {
            path.relative_to(ROOT).as_posix(): _sentence(ast.get_docstring(ast.parse(path.read_text())) or "")
            for path in sorted(ROOT.glob("configs/*/*.py"))
            if path.name != "__init__.py"
        },
    }
    return "\n\n".join(_section(title, lines) for title, lines in sections.items())


def _section(title: str, lines: Mapping[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join(
        [
            title,
            *(
                f"  {name.ljust(width)}  {textwrap.shorten(line, _WIDTH - width - 4, placeholder=' ...')}"
                for name, line in lines.items()
            ),
        ]
    )


def _first_lines(things: Mapping[str, Any]) -> dict[str, str]:
    return {name: _sentence(inspect.getdoc(things[name]) or "") for name in sorted(things)}


def _sentence(docstring: str) -> str:
    return " ".join(docstring.split("\n\n")[0].split())
