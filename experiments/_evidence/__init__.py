"""Checks: for each factory a module of its name, whose `CHECK` measures what the factory promises."""

import importlib
import pkgutil

from experiments._evidence._common import Check


def checks() -> dict[str, Check]:
    """{name of the factory: its check}, in the order of names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}").CHECK for name in names}
