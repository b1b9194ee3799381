"""A learner: model, method and optimizer on a stream, as pure functions."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core._base import (
    Batch,
    Data,
    Experience,
    Model,
    Outputs,
    Problem,
    PyTree,
    Spec,
    Stream,
    TrainState,
    Variables,
)
from ctrain_jax.core._context import tag
from ctrain_jax.core._data import at, fetch_rows, make_scan, question
from ctrain_jax.core._method import Method, chain, strong
from ctrain_jax.core._problem import classification, regression
from ctrain_jax.core._spec import make_spec
from ctrain_jax.core._step import Parts, Record, answer, constrain, make_context, make_fetch, make_step


class Learner(NamedTuple):
    """Pure functions over `TrainState`; `t` is the experience, `i` the step within it (int32 scalars)."""

    spec: Spec
    stream: Stream
    mesh: jax.sharding.Mesh | None
    init: Callable[..., TrainState]  # (rng, variables=None): start from trained Variables of the plain model
    begin: Callable[..., TrainState]  # (ts, data, t)
    step: Callable[..., tuple[TrainState, Record]]  # (ts, data, t, i); the record: training loss and scores
    gradient: Callable[..., tuple[jax.Array, PyTree]]  # (ts, data, t, i): the value that this step minimises, and grads
    chunk: Callable[..., tuple[TrainState, Record]]  # (ts, data, t, start, length): steps, and their mean record
    end: Callable[..., TrainState]  # (ts, data, t)
    predict: Callable[..., Outputs]  # (ts, data, t, batch): what the learner answers after experience t
    evaluate: Callable[..., Record]  # (ts, data, t, split="test") -> {metric: [E]} after experience t


def make_learner(
    model: Model,
    method: Method,
    optimizer: optax.GradientTransformation,
    stream: Stream,
    *,
    problem: Problem | None = None,
    batch_size: int = 32,
    epochs: int = 1,
    steps: int | None = None,
    eval_batch_size: int = 512,
    online: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> Learner:
    """Everything that a run needs, checked before anything is traced.

    Args:
      model: from `from_linen`, `from_nnx`, or by hand.
      method: a Method; several are one by `chain`.
      optimizer: any optax transform.
      stream: from `streams`.
      problem: what is minimised and scored; by default classification for integer labels, regression for floats.
      batch_size: rows of the incoming batch.
      epochs: passes over each experience; the last batch of a pass is filled with real rows of weight 0.
      steps: steps of each experience, in place of `epochs`.
      eval_batch_size: rows of a batch in `evaluate`.
      online: also predict and score each batch before it is learned (`online_...` in the step's record).
      mesh: devices; the batch is sharded over its axis `data`, the state is replicated.

    Returns:
      The learner.

    Raises:
      ValueError: a size below 1, a batch that the mesh does not divide, a stream that cannot give what the method
        needs, or a model whose output does not fit the stream.
      TypeError: an argument of the wrong kind.
    """
    method = chain(method)
    spec = make_spec(model, method, optimizer, stream, batch_size, epochs, steps, eval_batch_size, mesh)
    problem = method.problem(problem or _default_problem(stream))
    parts = Parts(spec, stream, method.model(model), problem, method, method.optimizer(optimizer), mesh)
    step, gradient = make_step(parts, online)
    metrics = tuple(jax.eval_shape(problem.metrics, spec.outputs, dict(spec.batch)))
    recorded = ("loss", *(f"online_{name}" for name in metrics if online), *metrics)

    def init(rng: jax.Array, variables: Variables | None = None) -> TrainState:
        start, shape = model, spec.batch["inputs"]
        if variables is not None:
            _check_variables(variables, jax.eval_shape(model.init, rng, shape))
            start = Model(lambda rng, inputs: variables, model.apply)
        made = method.model(start).init(tag(rng, "model"), jnp.zeros(shape.shape, shape.dtype))
        ts = TrainState(jnp.int32(0), *strong(made), opt_state=(), method_state={}, rng=rng)
        ctx = make_context(parts, "init", tag(rng, "init"), ts)
        states = method.init(ctx.rng, ts.params, ctx)
        return ts._replace(opt_state=strong(parts.optimizer.init(ts.params)), method_state=states)

    def edge(hook: str) -> Callable[..., TrainState]:
        def run(ts: TrainState, data: Data, t: jax.Array) -> TrainState:
            if not stream.boundaries:
                return ts
            experience, fetch = at(data.experiences["train"], t), make_fetch(parts, data, t)
            key = tag(jax.random.fold_in(ts.rng, t), hook)
            scan = make_scan(experience, fetch, spec)
            ctx = make_context(parts, hook, key, ts, experience=experience, fetch=fetch, scan=scan)
            states, ts = getattr(method, hook)(ts.method_state, ts, ctx)
            return ts._replace(method_state=states)

        return run

    def chunk(
        ts: TrainState, data: Data, t: jax.Array, start: jax.Array, length: jax.Array
    ) -> tuple[TrainState, Record]:
        def body(i, carry):
            ts, sums = carry
            ts, record = step(ts, data, t, i)
            return ts, {k: sums[k] + record[k] for k in recorded}

        zeros = {k: jnp.zeros(()) for k in recorded}
        ts, sums = jax.lax.fori_loop(start, start + length, body, (ts, zeros))
        return ts, {k: v / length for k, v in sums.items()}

    def predict(ts: TrainState, data: Data, t: jax.Array, batch: Batch) -> Outputs:
        experience, fetch = at(data.experiences["train"], t), make_fetch(parts, data, t)
        key = tag(jax.random.fold_in(ts.rng, t), "predict")
        ctx = make_context(parts, "predict", key, ts, experience=experience, fetch=fetch)
        return answer(parts, ctx, ts.method_state, batch)

    def evaluate(ts: TrainState, data: Data, t: jax.Array, split: str = "test") -> Record:
        if split not in data.experiences:
            raise ValueError(
                f"The stream has no {split!r} split, only {sorted(data.experiences)}: build it with valid_fraction."
            )
        learned = at(data.experiences["train"], t)

        def one(experience: Experience) -> Record:
            def body(b, sums):
                place = b * eval_batch_size + jnp.arange(eval_batch_size)
                weights = (place < experience.size).astype(jnp.float32)
                place = place % experience.size
                record = {"row": experience.rows[place], "experience": experience.origin[place]}
                batch = constrain(fetch_rows(stream, data, learned, record, split) | {"weights": weights}, mesh)
                rows = problem.metrics(predict(ts, data, t, question(batch, spec)), batch)
                return {k: sums[k] + jnp.sum(rows[k] * weights) for k in metrics}

            batches = -(-experience.size // eval_batch_size)
            sums = jax.lax.fori_loop(0, batches, body, {k: jnp.zeros(()) for k in metrics})
            return {k: v / experience.size for k, v in sums.items()}

        return jax.lax.map(one, data.experiences[split])

    return Learner(spec, stream, mesh, init, edge("begin"), step, gradient, chunk, edge("end"), predict, evaluate)


def _check_variables(variables: Variables, expected: Variables) -> None:
    for field, given, made in zip(Variables._fields, variables, expected, strict=True):
        got, wanted = jax.tree.map(jnp.shape, given), jax.tree.map(jnp.shape, made)
        if got != wanted:
            raise ValueError(
                f"The given variables.{field} do not fit the learner's model: expected shapes {str(wanted)[:300]}, "
                f"got {str(got)[:300]}; give all of Variables(params, model_state, frozen) of this model."
            )


def _default_problem(stream: Stream) -> Problem:
    return classification() if stream.source.train["labels"].dtype.kind in "iu" else regression()
