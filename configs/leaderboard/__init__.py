"""Boards: one stream each, and the methods that are compared on it under the same terms.

A board is a file with `METHODS`, `SEEDS` and `get_config(method)`. Model, optimizer, batches, passes and the rows of
memory are the board's; what else belongs to a method is taken from its own file in configs/continual.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from configs import common  # whose function has the name of a board

FEWER_STEPS = {"gacil": {"epochs": 1}, "nmc": {"epochs": 1}, "gdumb": {"steps": 1}}  # more would change nothing
PER_CLASS = ("bic", "icarl", "lucir", "wa")  # their `size` is the rows of a class
_OWN = Path(__file__).parents[1] / "continual"


def every_method() -> tuple[str, ...]:
    """All files of configs/continual for streams of images, and the variants that are methods of their own."""
    return tuple(sorted([*(path.stem for path in _OWN.glob("[!_]*.py")), "ewc:online"]))


def own_config(method: str, arg: str | None = None) -> ConfigDict:
    """The config of a method in configs/continual; `ewc:online` is `ewc` with this argument.

    Raises:
      ValueError: no such file.
    """
    name, _, variant = method.partition(":")
    if not (_OWN / f"{name}.py").is_file():
        raise ValueError(f"{method!r} is no method of configs/continual: give one of {', '.join(every_method())}.")
    given = ",".join(filter(None, (variant, arg)))
    return importlib.import_module(f"configs.continual.{name}").get_config(given or None)


def board_config(
    board: str,
    methods: Sequence[str],
    given: str | None,
    change: Callable[[ConfigDict], None],
    *,
    memory: int = 500,
    classes: int = 10,
) -> ConfigDict:
    """The config of one method on a board.

    Args:
      board: its name.
      methods: of the board.
      given: a method; `,runlocal` behind it takes digits, for a first look.
      change: makes the config that of the board, in place; called on that of Split-Fashion-MNIST.
      memory: rows that each method with a memory may keep.
      classes: of the source, over which methods with exemplars of each class divide it.

    Returns:
      The config.

    Raises:
      ValueError: another method or argument.
    """
    method, *rest = f"{given},".split(",")
    if method not in methods or set(rest) - {"", "runlocal"}:
        raise ValueError(f"The config takes one of {' '.join(methods)}, or that with ',runlocal', got {given!r}.")
    small = "runlocal" if "runlocal" in rest else None
    own = own_config(method, small)
    config = common.split_fashion_mnist(f"{board} {method}", tuple(own.methods), small)
    change(config)
    if small:
        config.source = {"name": "digits"}
        config.model = {"name": "MLP", "hidden": (32,)}
    for name in filter(own.__contains__, own.methods):
        config[name] = own[name]
        if name == "gem":
            config.gem.per_experience = memory // config.scenario.num_experiences
        elif "size" in config[name]:
            config[name].size = memory // (classes if name in PER_CLASS else 1)
    if "heads" in own.scenario and config.scenario.name == "class_incremental":
        config.scenario.heads = own.scenario.heads
    config.arrival = own.arrival
    config.update(FEWER_STEPS.get(method, {}))
    return config
