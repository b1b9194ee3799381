"""Runs: a stream from its first step to its last, in chunks, in one program, or for many seeds at once."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import Data, PyTree, TrainState, Variables
from ctrain_jax.core._data import to_device
from ctrain_jax.core._learner import Learner
from ctrain_jax.core._mesh import place, replicate
from ctrain_jax.core._step import Record, mean_record


class Result(NamedTuple):
    """What a run leaves behind. Of several seeds, every array has a leading axis for them."""

    state: TrainState
    metrics: Record  # {metric: [T, E]}: on test experience j after training experience i
    baseline: Record  # {metric: [E]}: of the learner before it was trained

    @property
    def accuracy(self) -> jax.Array:
        """The accuracy matrix `[T, E]`."""
        return self.metrics["accuracy"]


class Event(NamedTuple):
    """A moment of a run between two chunks. `state` may be saved; it is spent when the run goes on."""

    state: TrainState
    experience: int
    step: int  # steps of the experience that are done
    record: Record  # mean training loss and scores since the last event
    metrics: Record | None  # after the last step of an experience: {metric: [E]} on the test experiences


def mapped(function: Callable, in_axes: Sequence[int | None] | int = 0) -> Callable:
    """`function` over a leading axis of its arguments: `vmap` on accelerators, one after the other on CPU.

    The programs of small models run faster one after the other on CPU, and each still uses all cores.

    Args:
      function: any traceable function, a whole run included.
      in_axes: 0 or None for each argument, as in `jax.vmap`.

    Returns:
      The mapped function; every output has a leading axis.

    Example:
      >>> mapped(lambda x, y: x + y, (0, None))(jnp.arange(3), 10).tolist()
      [10, 11, 12]
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(function, in_axes)

    def run(*args):
        axes = (in_axes,) * len(args) if isinstance(in_axes, int) else tuple(in_axes)
        over = [arg for arg, axis in zip(args, axes, strict=True) if axis == 0]

        def one(some):
            some = iter(some)
            return function(*(next(some) if axis == 0 else arg for arg, axis in zip(args, axes, strict=True)))

        return jax.lax.map(one, over)

    return run


def run_stream(
    learner: Learner,
    seed: int | Sequence[int] = 0,
    *,
    data: Data | None = None,
    variables: Variables | None = None,
    jit: bool = True,
) -> Result:
    """Train on every experience of the learner's stream, in order, and test on all after each.

    Args:
      learner: from `make_learner`.
      seed: of everything random in the run; a sequence of seeds runs them all in the same programs.
      data: from `to_device(stream)`, to share it between runs; made here otherwise.
      variables: trained Variables of the plain model to start from.
      jit: False runs each step in plain Python, where values can be printed and an error names the hook, the
        experience and the step in which it happened. Slow.

    Returns:
      The final state, and the metrics after each experience.

    Raises:
      ValueError: several seeds with `jit=False`.
    """
    data = to_device(learner.stream, learner.mesh) if data is None else data
    state = start(learner, seed, variables=variables, jit=jit)
    baseline = compiled(learner.evaluate, is_mapped(state), jit=jit)(state, data, np.int32(0))
    rows = []
    for event in iterate(learner, data, state, jit=jit):
        state = event.state
        if event.metrics is not None:
            rows.append(event.metrics)
    axis = 1 if is_mapped(state) else 0
    return Result(state, jax.tree.map(lambda *x: jnp.stack(x, axis), *rows), baseline)


def start(
    learner: Learner, seed: int | Sequence[int] = 0, *, variables: Variables | None = None, jit: bool = True
) -> TrainState:
    """The state before the first step; of a sequence of seeds, stacked.

    Args:
      learner: from `make_learner`.
      seed: one, or a sequence that is mapped over.
      variables: trained Variables of the plain model to start from.
      jit: as in `run_stream`.

    Returns:
      The state.
    """
    several = not isinstance(seed, int | np.integer)
    if several and not jit:
        raise ValueError("jit=False runs one seed, got a sequence: pass one seed.")
    keys = jnp.stack([jax.random.key(s) for s in seed]) if several else jax.random.key(seed)
    init = compiled(learner.init, several, jit=jit, donate=False)
    given = (keys,) if variables is None else (keys, variables)
    if learner.layout is None:
        return init(*given)
    # Made where it is to lie: a model that does not fit on one device never lies on one.
    given = replicate(given, learner.layout.mesh)
    there = learner.layout.shardings(jax.eval_shape(init, *given), several)
    return jax.jit(init, out_shardings=there)(*given) if jit else place(init(*given), learner.layout)


def iterate(
    learner: Learner,
    data: Data,
    state: TrainState,
    *,
    chunk_steps: Callable[[], int] | None = None,
    jit: bool = True,
) -> Iterator[Event]:
    """Train from wherever `state` is to the end of the stream, pausing after each chunk.

    The place in the stream follows from `state.step` alone, so a restored state goes on where it was. An event whose
    step is the last of its experience comes after `end` and the evaluation.

    Args:
      learner: from `make_learner`.
      data: from `to_device`.
      state: from `start`, or restored; spent by the first chunk.
      chunk_steps: asked before each chunk for its length in steps; a chunk ends with its experience at the latest.
      jit: as in `run_stream`.

    Yields:
      An event after each chunk. Its state is donated to the next chunk: save it, do not keep it.
    """
    many = is_mapped(state)
    begin, chunk, end = (compiled(f, many, jit=jit, donate=True) for f in (learner.begin, learner.chunk, learner.end))
    evaluate = compiled(learner.evaluate, many, jit=jit)
    chunk = chunk if jit else functools.partial(_chunk_in_python, learner)
    t, i = position(learner, state)
    while t < learner.spec.num_experiences:
        at, steps = np.int32(t), learner.spec.steps[t]
        if i == 0:
            state = begin(state, data, at)
        length = min(steps - i, steps if chunk_steps is None else max(1, chunk_steps()))
        state, record = chunk(state, data, at, np.int32(i), np.int32(length))
        i += length
        if i < steps:
            yield Event(state, t, i, record, None)
        else:
            state = end(state, data, at)
            yield Event(state, t, i, record, evaluate(state, data, at))
            t, i = t + 1, 0


def run_experience(learner: Learner, state: TrainState, data: Data, t: int) -> TrainState:
    """Train on experience `t` from its first step to its last, `begin` and `end` included.

    Args:
      learner: from `make_learner`.
      state: after experience `t - 1`; spent by the call.
      data: from `to_device`.
      t: the experience.

    Returns:
      The state after experience `t`.
    """
    many, at = is_mapped(state), np.int32(t)
    begin, chunk, end = (compiled(f, many, donate=True) for f in (learner.begin, learner.chunk, learner.end))
    state, _ = chunk(begin(state, data, at), data, at, np.int32(0), np.int32(learner.spec.steps[t]))
    return end(state, data, at)


def run_fused(learner: Learner, data: Data, rng: jax.Array, variables: Variables | None = None) -> Result:
    """The whole run as one pure function of `(data, rng)`: jit it, and map it over seeds and hyper-parameters.

    Args:
      learner: from `make_learner`.
      data: from `to_device`.
      rng: the run's key; seed `s` of `run_stream` is `jax.random.key(s)`.
      variables: trained Variables of the plain model to start from.

    Returns:
      The same as `run_stream`, to rounding (it is another program).
    """
    state = learner.init(rng, variables)
    baseline = learner.evaluate(state, data, jnp.int32(0))
    steps = jnp.asarray(learner.spec.steps, jnp.int32)

    def experience(ts: TrainState, t: jax.Array) -> tuple[TrainState, Record]:
        ts, _ = learner.chunk(learner.begin(ts, data, t), data, t, jnp.int32(0), steps[t])
        ts = learner.end(ts, data, t)
        return ts, learner.evaluate(ts, data, t)

    state, metrics = jax.lax.scan(experience, state, jnp.arange(learner.spec.num_experiences, dtype=jnp.int32))
    return Result(state, metrics, baseline)


def evaluate(learner: Learner, state: TrainState, data: Data, t: int, split: str = "test") -> Record:
    """Each metric on each experience of a split, for a learner that has learned experience `t`.

    Args:
      learner: from `make_learner`.
      state: of one seed, or of several.
      data: from `to_device`.
      t: the last experience learned.
      split: "test", or "valid" where the stream has one.

    Returns:
      `{metric: [E]}`.
    """
    return compiled(learner.evaluate, is_mapped(state))(state, data, np.int32(t), split=split)


def position(learner: Learner, state: TrainState) -> tuple[int, int]:
    """The experience that `state` is in, and how many of its steps are done."""
    done = int(np.ravel(np.asarray(state.step))[0])
    for t, steps in enumerate(learner.spec.steps):
        if done < steps:
            return t, done
        done -= steps
    return learner.spec.num_experiences, 0


def is_mapped(state: TrainState) -> bool:
    """Whether a state is stacked over seeds."""
    return state.step.ndim > 0


@functools.lru_cache(maxsize=64)
def compiled(function: Callable, many: bool, *, jit: bool = True, donate: bool = False) -> Callable:
    """One of a learner's functions, mapped over its first argument where `many`, and compiled once."""
    if not jit:
        return _in_python(function)
    run = function
    if many:

        def run(state, *rest, **static):
            whole = functools.partial(function, **static)
            return mapped(whole, (0,) + (None,) * len(rest))(state, *rest)

    return jax.jit(run, donate_argnums=(0,) if donate else (), static_argnames=("split",) if _splits(function) else ())


def _splits(function: Callable) -> bool:
    return "split" in function.__code__.co_varnames[: function.__code__.co_argcount]


def _in_python(function: Callable) -> Callable:
    def run(*args: Any, **static: Any) -> Any:
        with jax.disable_jit():
            return function(*args, **static)

    return run


def _chunk_in_python(
    learner: Learner, ts: TrainState, data: Data, t: np.int32, start: np.int32, length: np.int32
) -> tuple[TrainState, Record]:
    sums: PyTree = None
    for i in range(start, start + length):
        with jax.disable_jit(), _noted(f"at experience {t}, step {i}"):
            ts, record = learner.step(ts, data, jnp.int32(t), jnp.int32(i))
        sums = record if sums is None else jax.tree.map(jnp.add, sums, record)
    return ts, mean_record(sums, length)


@contextlib.contextmanager
def _noted(note: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise
