"""A run that is tested every few steps, inside the compiled loop: what happens between the ends of experiences."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import Data, Experience, TrainState, Variables
from ctrain_jax.core._data import to_device
from ctrain_jax.core._learner import Learner
from ctrain_jax.core._run import compiled, is_mapped, start
from ctrain_jax.core._step import Record
from ctrain_jax.ops import check_size


class Trace(NamedTuple):
    """The tests of a run, in the order of time. Of several seeds, `metrics` has a leading axis for them."""

    metrics: Record  # {metric: [N, E]}: on test experience j at the n-th test
    step: np.ndarray  # int32 [N], steps taken over all experiences
    experience: np.ndarray  # int32 [N], the one that was being learned

    @property
    def accuracy(self) -> jax.Array:
        """The accuracies `[N, E]`."""
        return self.metrics["accuracy"]


def trace_stream(
    learner: Learner,
    seed: int | Sequence[int] = 0,
    *,
    every: int = 1,
    rows: int = 1000,
    data: Data | None = None,
    variables: Variables | None = None,
) -> tuple[TrainState, Trace]:
    """Train on every experience of the learner's stream, in order, and test on all of them every few steps.

    Each test is of the learner as it would answer at that moment; what a method does when an experience is over shows
    in the first test of the next one. The steps are those of `run_stream`.

    Args:
      learner: from `make_learner`.
      seed: of everything random in the run; a sequence of seeds runs them all in the same programs.
      every: steps between two tests; the last step of an experience is always followed by one.
      rows: test rows of each experience, the first ones of its test split.
      data: from `to_device(stream)`, to share it between runs; made here otherwise.
      variables: trained Variables of the plain model to start from.

    Returns:
      The final state, and the trace.

    Raises:
      ValueError: `every` or `rows` below 1.

    Example:
      >>> import optax
      >>> from ctrain_jax import core, models, streams
      >>> stream = streams.class_incremental(streams.digits(), 5)
      >>> model = core.from_linen(models.MLP(10, hidden=(8,)))
      >>> learner = core.make_learner(model, core.identity(), optax.sgd(0.1), stream, steps=5)
      >>> _, trace = core.trace_stream(learner, every=2)
      >>> trace.accuracy.shape, trace.step[:4].tolist(), trace.experience[:4].tolist()
      ((15, 5), [2, 4, 5, 7], [0, 0, 0, 1])
    """
    check_size("every", every)
    check_size("rows", rows)
    data = to_device(learner.stream, learner.mesh) if data is None else data
    few = _shortened(data, rows)
    state = start(learner, seed, variables=variables)
    steps = learner.spec.steps
    tests = [-(-n // every) for n in steps]
    many = is_mapped(state)
    begin, end = (compiled(f, many, donate=True) for f in (learner.begin, learner.end))
    run = compiled(_tested(learner.chunk, learner.evaluate, every, max(tests)), many, donate=True)
    parts = []
    for t, num in enumerate(steps):
        at = np.int32(t)
        state, found = run(begin(state, data, at), data, few, at, np.int32(num))
        state = end(state, data, at)
        parts.append(jax.tree.map(lambda x, n=tests[t]: x[..., :n, :], found))
    metrics = jax.tree.map(lambda *x: jnp.concatenate(x, -2), *parts)
    done = np.concatenate([[0], np.cumsum(steps)])
    step = [done[t] + np.minimum(np.arange(1, n + 1) * every, steps[t]) for t, n in enumerate(tests)]
    return state, Trace(
        metrics, np.concatenate(step).astype(np.int32), np.repeat(np.arange(len(steps)), tests).astype(np.int32)
    )


@functools.lru_cache(maxsize=64)
def _tested(chunk: Callable, evaluate: Callable, every: int, num_tests: int) -> Callable:
    """A chunk with a test after every few steps: `(ts, data, few, t, steps) -> (ts, {metric: [num_tests, E]})`."""

    def run(ts: TrainState, data: Data, few: Data, t: jax.Array, steps: jax.Array) -> tuple[TrainState, Record]:
        def test(n: jax.Array, carry: tuple[TrainState, Record]) -> tuple[TrainState, Record]:
            ts, found = carry
            ts, _ = chunk(ts, data, t, n * every, jnp.minimum(every, steps - n * every))
            return ts, {k: found[k].at[n].set(v) for k, v in evaluate(ts, few, t).items()}

        shapes = jax.eval_shape(evaluate, ts, few, t)
        found = {k: jnp.zeros((num_tests, *v.shape), v.dtype) for k, v in shapes.items()}
        return jax.lax.fori_loop(0, -(-steps // every), test, (ts, found))

    return run


def _shortened(data: Data, rows: int) -> Data:
    def short(test: Experience) -> Experience:
        return test._replace(size=jnp.minimum(test.size, rows))

    return data._replace(experiences=data.experiences | {"test": short(data.experiences["test"])})
