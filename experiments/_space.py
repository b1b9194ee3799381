"""What a search chooses from: `--space=ewc.lam=1:1e6:log`, and how a config takes what was chosen."""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from experiments import _build

_FORM = "KEY=LOW:HIGH, KEY=LOW:HIGH:log, or KEY=A,B,C"


class Axis(NamedTuple):
    """One key of a config, and its values."""

    key: str  # "ewc.lam"
    choices: tuple[Any, ...] = ()  # of "A,B,C"
    low: float = 0.0  # otherwise from here
    high: float = 0.0  # to here
    log: bool = False
    whole: bool = False  # whole numbers alone


def parsed(config: ml_collections.ConfigDict, texts: Sequence[str]) -> list[Axis]:
    """The axes of --space.

    Args:
      config: whose keys they name.
      texts: "KEY=LOW:HIGH[:log]" or "KEY=A,B,C". Both ends written as whole numbers mean whole numbers where the
        config has one.

    Raises:
      ConfigError: another form, an unknown key, or one that comes twice.
    """
    known = dict(_leaves(config.to_dict()))
    axes: dict[str, Axis] = {}
    for text in texts:
        key, _, values = (part.strip() for part in text.partition("="))
        _build.known_name("key of config", key, known)
        try:
            axis = _axis(key, values, known[key])
        except ValueError as error:
            raise _build.ConfigError(f"--space expects {_FORM}, got {text!r}: {error}.") from error
        if key in axes:
            raise _build.ConfigError(f"--space expects each key once, got {key} twice.")
        axes[key] = axis
    if not axes:
        raise _build.ConfigError(f"--space is needed, what to choose from: {_FORM}, as in --space=ewc.lam=1:1e6:log.")
    return list(axes.values())


def is_number_of_state(config: ml_collections.ConfigDict, axis: Axis) -> bool:
    """Whether an axis may be traced, so that all its values are one program."""
    section = axis.key.split(".")[0]
    return not axis.choices and not axis.whole and section in (*config.methods, "optimizer")


def changed(config: ml_collections.ConfigDict, point: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config with other values of some keys, which may be traced."""
    plain = copy.deepcopy(config.to_dict())
    for key, value in point.items():
        *path, last = key.split(".")
        section = plain
        for name in path:
            section = section[name]
        section[last] = value
    return ml_collections.ConfigDict(plain)


def _axis(key: str, values: str, now: Any) -> Axis:
    if "," in values:
        choices = _choices(values)
        if len(set(map(repr, choices))) < len(choices):
            raise ValueError("a choice comes twice")
        return Axis(key, choices)
    low, high, *rest = values.split(":")
    if rest not in ([], ["log"]):
        raise ValueError("a range ends in nothing or in :log")
    axis = Axis(key, (), float(low), float(high), rest == ["log"])
    if isinstance(now, int) and not isinstance(now, bool):
        axis = axis._replace(whole=float(low).is_integer() and float(high).is_integer())
    if not axis.low < axis.high or axis.high == float("inf") or axis.log and axis.low <= 0:
        raise ValueError("a range has a low end below its high end, and above 0 with :log")
    return axis


def _choices(text: str) -> tuple[Any, ...]:
    """The values of "8,16", of "[8],[16,16]" and of "ring,reservoir"."""
    try:
        return tuple(tuple(value) if isinstance(value, list) else value for value in json.loads(f"[{text}]"))
    except ValueError:
        return tuple(literal(value) for value in text.split(","))


def literal(text: str) -> Any:
    """A value as it is written: JSON, or a text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text.strip()
    return tuple(value) if isinstance(value, list) else value


def _leaves(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        return [(path, tree)]
    return [leaf for key, sub in tree.items() for leaf in _leaves(sub, f"{path}.{key}" if path else key)]
