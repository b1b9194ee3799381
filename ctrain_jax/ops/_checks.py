"""Checks of arguments, shared by all factories: one sentence that says what was expected and what came."""

import re
from collections.abc import Callable, Collection
from numbers import Integral
from typing import Any

import jax.core
import numpy as np


def check_positive(name: str, value: Any) -> None:
    """Raises unless every entry of `value` is above 0.

    Args:
        name: the argument's name, as the user wrote it.
        value: a number or an array. A tracer (a hyper-parameter under `jit`, `grad` or `vmap`) passes unseen.

    Raises:
        ValueError: `value` is not a number above 0; NaN is not.

    Example:
        >>> check_positive("capacity", 0)
        Traceback (most recent call last):
        ...
        ValueError: capacity must be above 0, got 0: give a larger number.
    """
    _check(name, value, lambda v: v > 0, "above 0", "give a larger number")


def check_non_negative(name: str, value: Any) -> None:
    """Raises unless every entry of `value` is 0 or above; arguments as in `check_positive`.

    Args:
        name: the argument's name.
        value: a number, an array or a tracer.

    Raises:
        ValueError: `value` is not a number of at least 0.

    Example:
        >>> check_non_negative("lam", 0.0)
    """
    _check(name, value, lambda v: v >= 0, "0 or above", "give 0 or a larger number")


def check_fraction(name: str, value: Any) -> None:
    """Raises unless every entry of `value` lies in [0, 1]; arguments as in `check_positive`.

    Args:
        name: the argument's name.
        value: a number, an array or a tracer.

    Raises:
        ValueError: `value` is not a number in [0, 1].

    Example:
        >>> check_fraction("decay", 1.5)
        Traceback (most recent call last):
        ...
        ValueError: decay must be between 0 and 1, got 1.5: give a fraction.
    """
    _check(name, value, lambda v: (v >= 0) & (v <= 1), "between 0 and 1", "give a fraction")


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raises unless `value` is one of `choices`.

    Args:
        name: the argument's name.
        value: what the user gave.
        choices: what is accepted.

    Raises:
        ValueError: `value` is not among `choices`.

    Example:
        >>> check_choice("mode", "exacte", ("sampled", "exact"))
        Traceback (most recent call last):
        ...
        ValueError: mode must be one of 'sampled', 'exact', got 'exacte': choose one of them.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}: choose one of them.")


def check_size(name: str, value: Any) -> None:
    """Raises unless `value` is a whole number from 1 on that fits into 32 bits: shapes and counts are static.

    Args:
        name: the argument's name.
        value: an int; a bool is none.

    Raises:
        ValueError: anything else.

    Example:
        >>> check_size("batch_size", 0)
        Traceback (most recent call last):
        ...
        ValueError: batch_size expects a whole number of at least 1, got 0.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} expects a whole number of at least 1, got {value!r}.")
    if int(value) >= 2**31:
        raise ValueError(f"{name} expects a whole number below 2**31, got {value}.")


def check_pattern(name: str, value: Any) -> None:
    """Raises unless `value` is a regular expression, or None where an argument may be left out.

    Args:
        name: the argument's name.
        value: a pattern of names of parameters.

    Raises:
        ValueError: no string, or one that `re` does not read.

    Example:
        >>> check_pattern("train", "(head")
        Traceback (most recent call last):
        ...
        ValueError: train expects a regular expression, got '(head': missing ), unterminated subpattern at position 0.
    """
    if value is None:
        return
    if not isinstance(value, str):
        raise ValueError(f"{name} expects a regular expression, got {value!r}: give a string.")
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{name} expects a regular expression, got {value!r}: {error}.") from error


def check_wrapped(who: str, frozen: Any, key: str) -> None:
    """Raises unless the model that a method made is the outermost, and the only one of its kind.

    Args:
        who: the method's name.
        frozen: of its context.
        key: what that model keeps in `frozen`, and no other.

    Raises:
        ValueError: another model around it, or a second of its kind inside.

    Example:
        >>> check_wrapped("sema", {"bank": 0, "frozen": ()}, "bank")
    """
    if not isinstance(frozen, dict) or key not in frozen:
        raise ValueError(f"{who} finds another model around its own, which hides it: put it first in the chain.")
    if isinstance(frozen.get("frozen"), dict) and key in frozen["frozen"]:
        raise ValueError(
            f"{who} is in the chain twice, or with one of its kind, and both would read one: leave one out."
        )


def _check(name: str, value: Any, holds: Callable[[Any], Any], expected: str, advice: str) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    try:
        good = bool(np.all(holds(np.asarray(value))))
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name} must be {expected}, got {value!r}: {advice}.")
