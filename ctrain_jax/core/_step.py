"""The step: one batch arrives, and the learner is a little different."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core._base import (
    Batch,
    Data,
    Model,
    Outputs,
    Problem,
    PyTree,
    Spec,
    Stream,
    TrainState,
    Variables,
)
from ctrain_jax.core._context import Context, tag
from ctrain_jax.core._data import at, batch_positions, fetch_rows, hide, question
from ctrain_jax.core._mesh import Layout
from ctrain_jax.core._method import Method, is_hole, strong
from ctrain_jax.core._problem import weighted_mean

Record = dict[str, jax.Array]


class Parts(NamedTuple):
    """What a learner is made of, wrapped by its method and fixed before anything is traced."""

    spec: Spec
    stream: Stream
    model: Model
    problem: Problem
    method: Method
    optimizer: optax.GradientTransformationExtraArgs
    layout: Layout | None

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """The devices, None for the default one."""
        return None if self.layout is None else self.layout.mesh


def make_context(parts: Parts, hook: str, key: jax.Array, ts: TrainState, **fields: Any) -> Context:
    """The context of a hook at a train state."""
    static = (parts.model, parts.problem, parts.spec, parts.optimizer)
    if not parts.stream.boundaries:
        fields.pop("experience", None)
    return Context(hook, hook, key, *static, ts.params, ts.model_state, ts.frozen, **fields)


def make_fetch(parts: Parts, data: Data, t: jax.Array, split: str = "train") -> Callable[..., Batch]:
    """`fetch(record) -> batch`, with what the protocol hides left out."""
    experience = at(data.experiences["train"], t)
    return lambda record: hide(fetch_rows(parts.stream, data, experience, record, split, parts.mesh), parts.stream)


def make_step(
    parts: Parts, online: bool, skip_nonfinite: bool = False
) -> tuple[Callable[..., tuple[TrainState, Record]], Callable[..., tuple[jax.Array, PyTree]]]:
    """The pure step `(ts, data, t, i) -> (ts, record)`, and what it would follow, `(ts, data, t, i) -> (value, grads)`.

    In order: fetch; online: predict and score; augment; forward, problem loss and added losses; gradient; the onion of
    optimizers; apply; update.

    Args:
      parts: the wrapped parts of the learner.
      online: whether each batch is predicted and scored before it is learned.
      skip_nonfinite: whether a step with numbers that are not finite changes nothing but the count of steps.

    Returns:
      The step, whose record holds the loss and the scores of the incoming rows; and the value that the step minimises
      with its gradient, before any optimizer.
    """
    spec, stream, model, problem, method, tx, layout = parts

    def objective(ts, ctx, params, batch, rng, penalties):
        variables = Variables(params, ts.model_state, ts.frozen)
        outputs, mstate = model.apply(
            variables, batch["inputs"], train=True, rng=tag(rng, "forward"), task=batch.get("task")
        )
        losses = problem.loss(outputs, batch)
        if losses.shape != batch["weights"].shape:
            raise ValueError(
                f"problem.loss returns a value for each row, expected shape {batch['weights'].shape}, got "
                f"{losses.shape}: leave the mean to the step."
            )
        value = weighted_mean(losses, batch["weights"])
        if not penalties:
            return value, (outputs, mstate, {})
        inside = ctx.replace(hook="loss", key=rng, batch=batch, outputs=outputs, model_state=mstate)
        added, aux = method.loss(ts.method_state, params, inside)
        return value + added, (outputs, aux.pop("model_state"), aux)

    def functions(ts, ctx, batch, penalties):
        """value_fn and grad_fn of a moment: called again, they are the same functions of params."""

        # lbfgs refuses extra arguments that value_fn does not name: hence the last three.
        def value_fn(
            params, *, batch=batch, rng=ctx.key, penalties=penalties, ctx=ctx, grad_fn=None, method_state=None
        ):
            del grad_fn, method_state
            return objective(ts, ctx, _filled(params, ts.params), batch, rng, penalties)[0]

        def grad_fn(params, *, batch=batch, rng=ctx.key, penalties=penalties):
            whole = _filled(params, ts.params)
            grads = jax.grad(lambda p: objective(ts, ctx, p, batch, rng, penalties)[0])(whole)
            return jax.tree.map(lambda p, g: p if is_hole(p) else g, params, grads, is_leaf=is_hole)

        return {"value_fn": value_fn, "grad_fn": grad_fn}

    def differentiate(ts, data, t, i):
        """The first half of a step, up to its gradient."""
        experience = at(data.experiences["train"], t)
        of_experience = jax.random.fold_in(ts.rng, t)
        key = jax.random.fold_in(of_experience, i)
        positions, weights = batch_positions(tag(of_experience, "order"), i, experience.size, spec.batch_size)
        record = {"row": experience.rows[positions], "experience": experience.origin[positions]}
        shown = fetch_rows(stream, data, experience, record, "train", parts.mesh) | {"weights": weights}
        incoming = hide(shown, stream)
        fetch = make_fetch(parts, data, t)
        ctx = make_context(parts, "step", key, ts, experience=experience, fetch=fetch, incoming=incoming)
        early = ctx.replace(hook="augment", **functions(ts, ctx, incoming, False))
        batch = method.augment(ts.method_state, dict(incoming), early)
        (value, (outputs, mstate, aux)), grads = jax.value_and_grad(
            lambda params: objective(ts, ctx, params, batch, key, True), has_aux=True
        )(ts.params)
        found = {"batch": batch, "outputs": outputs, "aux": aux, "value": value, "grads": grads}
        return ctx, shown, mstate, found

    def gradient(ts: TrainState, data: Data, t: jax.Array, i: jax.Array) -> tuple[jax.Array, PyTree]:
        found = differentiate(ts, data, t, i)[-1]
        return found["value"], found["grads"]

    def step(ts: TrainState, data: Data, t: jax.Array, i: jax.Array) -> tuple[TrainState, Record]:
        ctx, shown, mstate, found = differentiate(ts, data, t, i)
        scores = _online(parts, ctx, ts, shown) if online else {}
        late = functions(ts, ctx, found["batch"], True)
        known = ctx.replace(**found, **late)
        updates, opt_state = tx.update(
            known.grads,
            ts.opt_state,
            ts.params,
            value=known.value,
            grad=known.grads,
            **late,
            method_state=ts.method_state,
            ctx=known.replace(hook="optimizer", method_states=ts.method_state),
        )
        new = ts._replace(
            step=ts.step + 1,
            params=optax.apply_updates(ts.params, updates),
            model_state=mstate,
            opt_state=opt_state,
        )
        states, new = method.update(ts.method_state, new, known.replace(hook="update"))

        own_rows = Outputs(known.outputs.logits[: spec.batch_size])
        record = {"loss": known.value, **scores, **score(problem, own_rows, shown)}
        return placed(strong(new._replace(method_state=states)), layout), record

    return _skipping(step) if skip_nonfinite else step, gradient


def _skipping(step: Callable[..., tuple[TrainState, Record]]) -> Callable[..., tuple[TrainState, Record]]:
    def run(ts: TrainState, data: Data, t: jax.Array, i: jax.Array) -> tuple[TrainState, Record]:
        new, record = step(ts, data, t, i)
        trained = (record["loss"], new.params, new.model_state, new.opt_state)
        floats = [x for x in jax.tree.leaves(trained) if jnp.issubdtype(x.dtype, jnp.floating)]
        sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats]))
        kept = jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, ts)._replace(step=new.step)
        record = {name: jnp.where(sound, value, 0.0) for name, value in record.items()}
        return kept, record | {"skipped": 1.0 - sound}

    return run


def mean_record(sums: Record, length: Any) -> Record:
    """The record of a chunk of so many steps from their sum: `skipped` is counted, and its steps count for nothing."""
    skipped = sums.get("skipped")
    steps = length if skipped is None else jnp.maximum(length - skipped, 1)
    return {k: v if k == "skipped" else v / steps for k, v in sums.items()}


def score(problem: Problem, outputs: Outputs, batch: Batch) -> Record:
    """Each metric of the problem, as the weighted mean over a batch."""
    return {k: weighted_mean(v, batch["weights"]) for k, v in problem.metrics(outputs, batch).items()}


def placed(ts: TrainState, layout: Layout | None) -> TrainState:
    """The state inside a compiled function, with its leaves where the layout wants them."""
    return ts if layout is None else layout.constrained(ts)


def answer(parts: Parts, ctx: Context, states: PyTree, batch: Batch) -> Outputs:
    """What the learner answers to a batch that hides the labels."""
    ctx = ctx.replace(hook="predict", batch=batch)
    plain = ctx.forward(ctx.params, batch["inputs"], task=batch.get("task"))[0]
    return parts.method.predict(states, ctx.replace(outputs=plain))


def _online(parts: Parts, ctx: Context, ts: TrainState, shown: Batch) -> Record:
    outputs = answer(parts, ctx, ts.method_state, question(shown, parts.spec))
    return {f"online_{k}": v for k, v in score(parts.problem, outputs, shown).items()}


def _filled(params: PyTree, whole: PyTree) -> PyTree:
    """`params` with the holes of a partition filled from `whole`: the model needs all of them."""
    return jax.tree.map(lambda p, w: w if is_hole(p) else p, params, whole, is_leaf=is_hole)
