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
from ctrain_jax.core._mesh import Layout, Rules, spread_model
from ctrain_jax.core._method import Method, chain, strong
from ctrain_jax.core._problem import classification, regression
from ctrain_jax.core._spec import make_spec
from ctrain_jax.core._step import Parts, Record, answer, make_context, make_fetch, make_step, mean_record, placed


class Learner(NamedTuple):
    """Pure functions over `TrainState`; `t` is the experience, `i` the step within it (int32 scalars)."""

    spec: Spec
    stream: Stream
    layout: Layout | None  # devices, and which leaves lie where
    init: Callable[..., TrainState]  # (rng, variables=None): start from trained Variables of the plain model
    begin: Callable[..., TrainState]  # (ts, data, t)
    step: Callable[..., tuple[TrainState, Record]]  # (ts, data, t, i); the record: training loss and scores
    gradient: Callable[..., tuple[jax.Array, PyTree]]  # (ts, data, t, i): the value that this step minimises, and grads
    chunk: Callable[..., tuple[TrainState, Record]]  # (ts, data, t, start, length): steps, and their mean record
    end: Callable[..., TrainState]  # (ts, data, t)
    predict: Callable[..., Outputs]  # (ts, data, t, batch): what the learner answers after experience t
    evaluate: Callable[..., Record]  # (ts, data, t, split="test") -> {metric: [E]} after experience t

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """The devices, None for the default one."""
        return None if self.layout is None else self.layout.mesh


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
    skip_nonfinite: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    rules: Rules = (),
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
      skip_nonfinite: a step whose loss, parameters, statistics or optimizer state are not finite changes nothing but
        the count of steps; `skipped` in the record of a chunk is how many. Costs a few percent of a small model's step.
      mesh: devices, as from `data_mesh`. The rows of each forward pass are spread over its axis `data`, filled up where
        the devices do not divide them; the state is on every device.
      rules: (pattern, PartitionSpec) for leaves of the state that are to be spread instead, for a model that does not
        fit on one device: the first pattern that is found in a leaf's path counts. `[("kernel", P("data"))]` spreads
        all kernels with their moments, teachers and importances by their first axis.

    Returns:
      The learner.

    Raises:
      ValueError: a size below 1, a stream that cannot give what the method needs, a model whose output does not fit the
        stream, a mesh without the axis `data`, rules without a mesh, or one whose devices do not divide an axis.
      TypeError: an argument of the wrong kind.
    """
    method = chain(method)
    spec = make_spec(model, method, optimizer, stream, batch_size, epochs, steps, eval_batch_size)
    layout = _layout(mesh, rules)
    problem = method.problem(problem or _default_problem(stream))
    wrapped = method.model(model) if mesh is None else spread_model(method.model(model), mesh)
    parts = Parts(spec, stream, wrapped, problem, method, method.optimizer(optimizer), layout)
    step, gradient = make_step(parts, online, skip_nonfinite)
    metrics = tuple(jax.eval_shape(problem.metrics, spec.outputs, dict(spec.batch)))
    recorded = ("loss", *(f"online_{name}" for name in metrics if online), *metrics)
    recorded += ("skipped",) if skip_nonfinite else ()

    def init(rng: jax.Array, variables: Variables | None = None) -> TrainState:
        start, shape = model, spec.batch["inputs"]
        if variables is not None:
            _check_variables(variables, jax.eval_shape(model.init, rng, shape))
            start = Model(lambda rng, inputs: variables, model.apply)
        made = method.model(start).init(tag(rng, "model"), jnp.zeros(shape.shape, shape.dtype))
        ts = TrainState(jnp.int32(0), *strong(made), opt_state=(), method_state={}, rng=rng)
        ctx = make_context(parts, "init", tag(rng, "init"), ts)
        states = method.init(ctx.rng, ts.params, ctx)
        ts = ts._replace(opt_state=strong(parts.optimizer.init(ts.params)), method_state=states)
        return placed(ts, layout)

    def edge(hook: str) -> Callable[..., TrainState]:
        def run(ts: TrainState, data: Data, t: jax.Array) -> TrainState:
            if not stream.boundaries:
                return ts
            experience, fetch = at(data.experiences["train"], t), make_fetch(parts, data, t)
            key = tag(jax.random.fold_in(ts.rng, t), hook)
            scan = make_scan(experience, fetch, spec)
            ctx = make_context(parts, hook, key, ts, experience=experience, fetch=fetch, scan=scan)
            states, ts = getattr(method, hook)(ts.method_state, ts, ctx)
            return placed(ts._replace(method_state=states), layout)

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
        return ts, mean_record(sums, length)

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
                batch = fetch_rows(stream, data, learned, record, split, parts.mesh) | {"weights": weights}
                rows = problem.metrics(predict(ts, data, t, question(batch, spec)), batch)
                return {k: sums[k] + jnp.sum(rows[k] * weights) for k in metrics}

            batches = -(-experience.size // eval_batch_size)
            sums = jax.lax.fori_loop(0, batches, body, {k: jnp.zeros(()) for k in metrics})
            return {k: v / experience.size for k, v in sums.items()}

        return jax.lax.map(one, data.experiences[split])

    return Learner(spec, stream, layout, init, edge("begin"), step, gradient, chunk, edge("end"), predict, evaluate)


def _layout(mesh: jax.sharding.Mesh | None, rules: Rules) -> Layout | None:
    if mesh is None:
        if rules:
            raise ValueError("rules spread leaves over the devices of a mesh, got rules without one: give mesh=.")
        return None
    if "data" not in mesh.shape:
        raise ValueError(f"The mesh expects an axis named 'data', got {tuple(mesh.axis_names)}.")
    return Layout(mesh, tuple(rules))


def _check_variables(variables: Variables, expected: Variables) -> None:
    for field, given, made in zip(Variables._fields, variables, expected, strict=True):
        got, wanted = jax.tree.map(jnp.shape, given), jax.tree.map(jnp.shape, made)
        if got != wanted:
            raise ValueError(
                f"The given variables.{field} do not fit the learner's model: expected shapes {str(wanted)[:300]}, "
                f"got {str(got)[:300]}; give all of Variables(params, model_state, frozen) of this model."
            )


def _default_problem(stream: Stream) -> Problem:
    problem = classification() if stream.source.train["labels"].dtype.kind in "iu" else regression()
    return problem if stream.labels else problem._replace(loss=_hidden_labels)


def _hidden_labels(outputs: Outputs, batch: Batch) -> jax.Array:
    raise ValueError(
        "The stream hides labels, which the usual loss needs: give make_learner a problem whose loss does without, or "
        "the learner labels by stream._replace(labels=True)."
    )
