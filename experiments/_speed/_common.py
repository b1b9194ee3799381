"""How a speed is measured: as a ratio, in one process, in turns."""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

ROOT = Path(__file__).parents[2]


class Measure(NamedTuple):
    """A number that was measured, and the bound that it has to keep, if any."""

    name: str
    value: float
    bound: float | None = None
    at_least: bool = False  # the bound is a lowest value, and not a highest one
    detail: Mapping[str, Any] = {}

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; a number without one is only told."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def line(self) -> str:
        """`name value bound PASS|FAIL`, or `name value` of a number without a bound."""
        if self.bound is None:
            return f"{self.name} {self.value:.4g}"
        sign = ">=" if self.at_least else "<="
        return f"{self.name} {self.value:.4g} {sign}{self.bound:g} {'PASS' if self.holds else 'FAIL'}"


class Options(NamedTuple):
    """How a suite is run."""

    small: bool = False  # tiny, to see that it works; the numbers say nothing then
    data_dir: str | None = None  # where MNIST is prepared


class Suite(NamedTuple):
    """What `--suite=NAME` runs."""

    about: str
    run: Callable[[Options], Iterator[Measure]]


class Program(NamedTuple):
    """Something to be timed again and again: `run(prepare())`, of which `run` counts."""

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


def seconds(program: Program) -> float:
    """Of one run, from its start until the device is done."""
    ready = jax.block_until_ready(program.prepare())
    began = time.perf_counter()
    jax.block_until_ready(program.run(ready))
    return time.perf_counter() - began


def in_turns(programs: Mapping[str, Program], rounds: int) -> dict[str, list[float]]:
    """Seconds of each program, once a round; each starts a round as often as the others.

    Args:
      programs: each is run once before, to be compiled and warm.
      rounds: how often each is timed.

    Returns:
      {name: [rounds]}.
    """
    names = list(programs)
    for program in programs.values():
        seconds(program)
    times: dict[str, list[float]] = {name: [] for name in names}
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            times[name].append(seconds(programs[name]))
    return times


def ratio(times: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """The median of the ratios of two programs that were timed in turns, with its quartiles."""
    each = sorted(a / b for a, b in zip(times, others, strict=True))
    low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
    return {"ratio": middle, "quartiles": [low, high], "rounds": len(each)}


def copied(tree: Any) -> Any:
    """A copy, for a program that is given its argument for good."""
    return jax.tree.map(lambda x: x.copy() if isinstance(x, jax.Array) else x, tree)


def in_processes(programs: Mapping[str, Sequence[str]], rounds: int, **environment: str) -> dict[str, list[Any]]:
    """What the last line of each program says, as JSON; each runs in a process of its own, in turns.

    Args:
      programs: {name: command}.
      rounds: how often each is run.
      environment: variables to change.

    Returns:
      {name: [rounds]}.

    Raises:
      RuntimeError: a program fails; the end of what it wrote to stderr.
    """
    said: dict[str, list[Any]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, command in programs.items():
            done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
            said[name].append(json.loads(done.stdout.splitlines()[-1]))
    return said
