"""What a life, a resume and an end should have been, and what they were."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import _build, continual
from experiments._soak import _life

_CODES = {"kill": -9, "kill_in_save": -9, "term": 143, "interrupt": 130}
_OF_THE_RUN = ("seeds", "metric", "matrices", "baseline", "steps", "experiences", "finished")  # the rest is of its time


def verdict(
    life: _life.Life, kind: str | None, finished: bool, floor: int, there: Iterable[int]
) -> tuple[str | None, str]:
    """How the faults before a life have ended so far, and what was wrong with it.

    Args:
      life: the one after them.
      kind: of the signal that was to end it.
      finished: whether the run is, after it.
      floor: the newest whole checkpoint when it started.
      there: all of them at that time.

    Returns:
      "lost", "failed", "" where all is well, None where it did not come so far; and a sentence without its subject.
    """
    wrong = _problem(life, kind, finished)
    if wrong:
        return "failed", wrong
    if life.resumed is None:
        return ("" if finished else None), ""
    if life.resumed < floor:
        return "lost", f"resumed at step {life.resumed} and not at {floor}"
    if life.resumed not in {0, *there}:
        return "failed", f"resumed at step {life.resumed}, of which there was no checkpoint"
    return "", ""


def result(run: Path) -> dict[str, Any]:
    """What `result.json` says; nothing where it cannot be read."""
    try:
        return json.loads((run / "result.json").read_text())
    except (OSError, ValueError):
        return {}


def leaves(run: Path) -> dict[str, np.ndarray]:
    """{place: array} of the newest whole checkpoint, of all seeds."""
    found = {}
    for seed in result(run)["seeds"]:
        _, state = continual.load(run, seed)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            name = f"{jax.tree_util.keystr(path)} of seed {seed}"
            found[name] = np.asarray(jax.random.key_data(leaf) if key else leaf)
    return found


def differences(whole: Path, other: Path, expected: Mapping[str, np.ndarray]) -> list[str]:
    """What of the end of a run differs from that of one that nobody touched, of which the leaves are known."""
    one, two = result(whole), result(other)
    found = [f"{key} of result.json" for key in _OF_THE_RUN if one.get(key) != two.get(key)]
    if _tests(whole) != _tests(other):
        found.append("the tests of metrics.jsonl")
    try:
        got = leaves(other)
    except (_build.ConfigError, KeyError) as error:
        return [*found, f"its checkpoints ({error})"]
    found += [name for name in {**expected, **got} if not _same(expected.get(name), got.get(name))]
    return found


def _problem(life: _life.Life, kind: str | None, finished: bool) -> str:
    if life.overdue:
        return "did not end"
    number = int(_life.SIGNALS[kind]) if kind and life.struck else 0
    expected = _CODES[kind] if kind and life.struck else 0
    # Where it was over but for its last words, a signal finds Python putting everything away.
    if finished and life.code in (0, expected, -number):
        return ""
    if life.code != expected:
        return f"ended with {life.code} and not with {expected}"
    if "Traceback" in life.err:
        return "left a traceback"
    if expected > 0 and life.said is None:
        return "did not say at which step it stopped"
    return "" if life.struck or finished else "ended without a finished result"


def _tests(run: Path) -> list[str]:
    """What was told of the tests after experiences, every one once."""
    return [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"kind": "eval"' in line]


def _same(one: np.ndarray | None, two: np.ndarray | None) -> bool:
    if one is None or two is None:
        return False
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
