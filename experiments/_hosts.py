"""Several processes as one run: they find each other, agree on what they do, and one of them writes."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from ctrain_jax import core
from ctrain_jax.ops import check_pattern
from experiments import _build, _cli


def define_flags() -> None:
    """The flags of a binary that may run as several processes."""
    flags.DEFINE_bool(
        "distributed", False, "One of several processes, which find each other (TPU pod, SLURM, Open MPI, Kubernetes)."
    )
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where processes cannot find each other.")
    flags.DEFINE_integer("processes", None, "With --coordinator: how many processes there are.", lower_bound=1)
    flags.DEFINE_integer("process", None, "With --coordinator: which of them this one is, from 0.", lower_bound=0)
    flags.DEFINE_integer(
        "heartbeat_seconds", 100, "After how many silent seconds a process is given up.", lower_bound=1
    )
    flags.DEFINE_integer("devices", None, "Over how many devices batches are spread; all by default.", lower_bound=1)
    flags.DEFINE_multi_string(
        "shard",
        [],
        "Spread these leaves of the state over the devices too, for a model that does not fit on one: a pattern of "
        "their paths, and after a colon the axis, 0 by default, as in --shard=kernel or --shard=embedding:1. "
        "Repeatable: the first one that is found counts.",
    )


def connect(given: flags.FlagValues) -> None:
    """Join the other processes, where the flags say that there are some."""
    own = {"--processes": given.processes, "--process": given.process}
    if given.coordinator is None:
        if any(value is not None for value in own.values()):
            _cli.fail("--processes and --process go with --coordinator=HOST:PORT; --distributed needs neither.")
        if given.distributed:
            _initialize(given.heartbeat_seconds)
        return
    if missing := [name for name, value in own.items() if value is None]:
        _cli.fail(f"--coordinator expects {' and '.join(missing)} as well, as in --processes=4 --process=0.")
    if given.process >= given.processes:
        _cli.fail(f"--process expects one of 0 to {given.processes - 1}, got {given.process}.")
    _initialize(
        given.heartbeat_seconds,
        coordinator_address=given.coordinator,
        num_processes=given.processes,
        process_id=given.process,
    )


def _initialize(heartbeat: int, **who: Any) -> None:
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat, **who)
    except (ValueError, RuntimeError) as error:
        _cli.fail(f"the processes of this run did not find each other: {' '.join(str(error).split())[:300]}")


def mesh(devices: int | None) -> jax.sharding.Mesh | None:
    """So many devices, all by default; None where one is enough, on which nothing is spread.

    Raises:
      ConfigError: more than there are, or some of several processes.
    """
    there = jax.device_count()
    if devices is not None and (devices > there or (jax.process_count() > 1 and devices != there)):
        raise _build.ConfigError(f"--devices: there are {there}, got {devices}.")
    chosen = jax.devices()[:devices]
    return core.data_mesh(chosen) if len(chosen) > 1 else None


def rules(patterns: Sequence[str]) -> tuple[tuple[str, jax.sharding.PartitionSpec], ...]:
    """What `core.make_learner` takes as rules, of "PATTERN" or "PATTERN:AXIS" each.

    Raises:
      ConfigError: a pattern that is no regular expression.
    """
    found = []
    for given in patterns:
        match = re.fullmatch(r"(.*?)(?::(\d+))?", given)
        pattern, axis = (match[1], int(match[2] or 0)) if match else (given, 0)
        try:
            check_pattern("--shard", pattern)
        except ValueError as error:
            raise _build.ConfigError(str(error)) from error
        found.append((pattern, jax.sharding.PartitionSpec(*[None] * axis, "data")))
    return tuple(found)


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def agreed(steps: int, *wishes: bool) -> tuple[int, ...]:
    """What all processes do: the first one's number of steps, and each wish that one of them has."""
    own = np.array([steps, *wishes], np.int32)
    if jax.process_count() == 1:
        return tuple(own.tolist())
    from jax.experimental.multihost_utils import process_allgather

    everyone = np.asarray(process_allgather(own))
    return tuple([int(everyone[0, 0]), *everyone[:, 1:].max(0).tolist()])


@contextlib.contextmanager
def together(workdir: Path) -> Iterator[None]:
    """Ends this process with a sentence and the code `PEER` when it hears no more of another one.

    At once: whatever is to be closed in order would wait for the one that is gone.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1 or not _is_of_a_peer(error):
            raise
        print(
            f"error: another process of this run is gone ({' '.join(str(error).split())[:200]}): start all of them "
            f"again, the run goes on from its newest checkpoint in {workdir}.",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        os._exit(_cli.PEER)


def _is_of_a_peer(error: BaseException | None) -> bool:
    """Whether it, or what it came from, is a message of JAX that was not answered."""
    while error is not None:
        # What Gloo says comes as a ValueError now and then.
        if isinstance(error, jax.errors.JaxRuntimeError) or (isinstance(error, ValueError) and "Gloo" in str(error)):
            return "RESOURCE_EXHAUSTED" not in str(error)
        error = error.__cause__
    return False


class Silence:
    """The bar and the log of a process that tells nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: None
