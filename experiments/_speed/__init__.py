"""Suites of the speed binary: each is a module whose `SUITE` says what it measures, and measures it."""

import importlib
import pkgutil

from experiments._speed._common import Suite


def suites() -> dict[str, Suite]:
    """{name: suite}, in the order of names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}").SUITE for name in names}
