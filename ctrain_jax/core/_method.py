"""A method: how a learner lives through a stream, and how several live through it together."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core._base import Batch, Model, Outputs, Problem, PyTree, TrainState
from ctrain_jax.core._context import Context

_EXTRAS = ("value", "grad", "value_fn", "grad_fn", "method_state", "ctx")


def _same(wrapped: Any) -> Any:
    return wrapped


def _no_state(rng: jax.Array, params: PyTree, ctx: Context) -> PyTree:
    return ()


def _no_change(s: PyTree, ts: TrainState, ctx: Context) -> tuple[PyTree, TrainState]:
    return s, ts


def _no_augment(s: PyTree, batch: Batch, ctx: Context) -> Batch:
    return batch


def _no_loss(s: PyTree, params: PyTree, ctx: Context) -> tuple[jax.Array, dict[str, PyTree]]:
    return jnp.zeros(()), {}


def _plain_prediction(s: PyTree, ctx: Context) -> Outputs:
    return ctx.outputs


class Method(NamedTuple):
    """A tuple of pure, traceable functions over one pytree of state `s`; every hook does nothing by default.

    Static wrappers, applied once; the first method of a chain is the outermost:
      model: `Model -> Model`. problem: `Problem -> Problem`. optimizer: optax transform -> optax transform; its
      update is given `method_state` (the method's own state) and `ctx` as extra arguments and must pass `**extra` on.

    State, whose structure, shapes and dtypes never change:
      init: `(rng, params, ctx) -> s`.
      begin, update, end: `(s, ts, ctx) -> (s, ts)` when an experience starts, after each step, when it is over.

    The step:
      augment: `(s, batch, ctx) -> batch`, may append rows and add fields.
      loss: `(s, params, ctx) -> (scalar, aux)`, added to the problem's loss. `aux["model_state"]` replaces the model
      state; the rest reaches `update` as `ctx.aux[ctx.name]`.

    Use:
      predict: `(s, ctx) -> Outputs`, from `ctx.outputs` (the plain forward pass, free when it is not read).

    `needs` names what a stream or model must give: "task" (task ids when predicting), "boundaries" (`begin`, `end`,
    `ctx.experience`), "labels", "classes" (labels that are whole numbers, and a logit for each), "features". What
    cannot is refused when the learner is made.

    Example, a method that pulls the weights to zero:
      >>> def loss(s, params, ctx):
      ...   return 0.1 * optax.tree.norm(params, squared=True), {}
      >>> shrink = Method("shrink", loss=loss)
      >>> chain(shrink, identity()).parts[0].name
      'shrink'
    """

    name: str
    init: Callable[..., PyTree] = _no_state
    begin: Callable[..., tuple[PyTree, TrainState]] = _no_change
    update: Callable[..., tuple[PyTree, TrainState]] = _no_change
    end: Callable[..., tuple[PyTree, TrainState]] = _no_change
    augment: Callable[..., Batch] = _no_augment
    loss: Callable[..., tuple[jax.Array, dict[str, PyTree]]] = _no_loss
    predict: Callable[..., Outputs] = _plain_prediction
    model: Callable[[Model], Model] = _same
    problem: Callable[[Problem], Problem] = _same
    optimizer: Callable[[Any], Any] = _same
    needs: tuple[str, ...] = ()
    parts: tuple["Method", ...] | None = None  # of a chain


def identity() -> Method:
    """The learner that only trains (`naive`): the chain of nothing.

    Returns:
      A method whose every hook does nothing; `chain(identity(), m)` is `chain(m)`.
    """
    return chain()


def chain(*methods: Method) -> Method:
    """Methods that live through the stream together, each with a state of its own.

    Hooks run from left to right, each seeing the edits of the ones before it; losses add up; of the wrappers (model,
    problem, optimizer) the first method's is the outermost: it sees the gradient first and the update last. Chains
    flatten, so `chain` is associative. States are kept by name: `{"ewc": s, "ewc_1": s}`.

    Args:
      *methods: the methods, from first to last.

    Returns:
      The chained method. Its state is a dict from name to state.

    Raises:
      TypeError: something that is not a Method (an optax transform, a factory that was not called).
    """
    parts: list[Method] = []
    for method in methods:
        if not isinstance(method, Method):
            raise TypeError(
                f"chain expects Methods, got {method!r}: call the factory, and give an optax transform to the learner."
            )
        parts.extend((method,) if method.parts is None else method.parts)
    names = _unique([part.name for part in parts])
    named = dict(zip(names, parts, strict=True))

    def init(rng, params, ctx):
        del rng
        states = {}
        for name, part in named.items():
            own = ctx.replace(name=name)
            states[name] = strong(_call(name, "init", part.init, own.rng, params, own))
        return states

    def edge(hook):
        def run(states, ts, ctx):
            states = dict(states)
            for name, part in named.items():
                function = getattr(part, hook)
                if function is not _no_change:
                    if hook != "update":
                        # In update it is the moment of the forward pass, before the update.
                        ctx = ctx.replace(params=ts.params, model_state=ts.model_state, frozen=ts.frozen)
                    new, ts_new = _pair(name, hook, "(s, ts)", function, states[name], ts, ctx.replace(name=name))
                    states[name] = _like(new, states[name], f"{name}.{hook}", "its state")
                    ts = _like(ts_new, ts, f"{name}.{hook}", "the train state")
            return states, ts

        return run

    def augment(states, batch, ctx):
        for name, part in named.items():
            if part.augment is not _no_augment:
                batch = _call(name, "augment", part.augment, states[name], batch, ctx.replace(name=name))
        return batch

    def loss(states, params, ctx):
        total, collected = jnp.zeros(()), {}
        for name, part in named.items():
            if part.loss is not _no_loss:
                own = ctx.replace(name=name)
                value, aux = _pair(name, "loss", "(scalar, dict)", part.loss, states[name], params, own)
                if jnp.shape(value) != ():
                    raise ValueError(f"{name}.loss returns a scalar, got shape {jnp.shape(value)}: take its mean.")
                aux = dict(aux)
                ctx = ctx.replace(model_state=aux.pop("model_state", ctx.model_state))
                total, collected[name] = total + value, aux
        return total, {**collected, "model_state": ctx.model_state}

    def predict(states, ctx):
        for name, part in named.items():
            if part.predict is not _plain_prediction:
                outputs = _call(name, "predict", part.predict, states[name], ctx.replace(name=name))
                ctx = ctx.replace(outputs=outputs)
        return ctx.outputs

    def wrap(kind):
        def run(wrapped):
            for part in reversed(parts):
                wrapped = getattr(part, kind)(wrapped)
            return wrapped

        return run

    def optimizer(tx):
        tx = _declared_extras(tx)
        wrappers = [name for name, part in named.items() if part.optimizer is not _same]
        for place, name in reversed(list(enumerate(wrappers))):
            tx = _route(name, named[name].optimizer, tx, wrappers[:place])
        return tx

    return Method(
        "chain",
        init,
        edge("begin"),
        edge("update"),
        edge("end"),
        augment,
        loss,
        predict,
        wrap("model"),
        wrap("problem"),
        optimizer,
        tuple(dict.fromkeys(need for part in parts for need in part.needs)),
        tuple(parts),
    )


def before(transform: optax.GradientTransformation) -> Callable:
    """The optimizer hook that runs an optax transform on the gradient, before what it wraps (clipping, say)."""
    return lambda tx: optax.chain(transform, tx)


def after(transform: optax.GradientTransformation) -> Callable:
    """The optimizer hook that runs an optax transform on the update, after what it wraps (projections, masks)."""
    return lambda tx: optax.chain(tx, transform)


def strong(tree: PyTree) -> PyTree:
    """The tree as arrays whose dtype is their own, not Python's: what a loop carries must not drift."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.asarray(x).dtype), tree)


def is_hole(x: Any) -> bool:
    """Whether a leaf was cut out by `optax.partition` or `optax.masked`."""
    return isinstance(x, optax.MaskedNode)


def _unique(names: list[str]) -> list[str]:
    taken: dict[str, int] = {}
    result = []
    for name in names:
        count = taken.get(name, 0)
        taken[name] = count + 1
        result.append(name if count == 0 else f"{name}_{count}")
    return result


def _call(name: str, hook: str, function: Callable, *args: Any) -> Any:
    try:
        return function(*args)
    except KeyError as error:
        field = error.args[0] if error.args else None
        sentence = _MISSING.get(field) if isinstance(field, str) else None
        if sentence is None:
            error.add_note(f"in {name}.{hook}")
            raise
        raise KeyError(f"{name}.{hook} reads batch[{field!r}], {sentence}") from error
    except Exception as error:
        error.add_note(f"in {name}.{hook}")
        raise


def _pair(name: str, hook: str, what: str, function: Callable, *args: Any) -> Any:
    result = _call(name, hook, function, *args)
    if type(result) is not tuple or len(result) != 2:
        raise TypeError(f"{name}.{hook} returns {what}, got {type(result).__name__}: return both, as a tuple.")
    return result


_MISSING: Mapping[str, str] = {
    "labels": "which this stream hides from the learner: use a method that needs no labels, or show them.",
    "task": "which this stream does not give when predicting: use a task-incremental stream.",
    "classes": "which exists on streams with heads='seen' or 'task' only.",
    "targets": "which no method before it in the chain adds: put the one that adds it first.",
    "memory": "which no method before it in the chain adds: put the memory first.",
}


def _like(new: PyTree, old: PyTree, who: str, what: str) -> PyTree:
    """`new` with strong dtypes, after a check that it has the structure of `old`."""
    got, expected = jax.tree.structure(new), jax.tree.structure(old)
    if got != expected:
        raise TypeError(f"{who} changed the structure of {what}: expected {expected}, got {got}; keep it fixed.")

    def check(path, x, y):
        x, y = jnp.asarray(x), jnp.asarray(y)
        if x.shape != y.shape or x.dtype != y.dtype:
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise TypeError(
                f"{who} changed {what}{where}: expected {y.dtype}{list(y.shape)}, "
                f"got {x.dtype}{list(x.shape)}; keep shapes and dtypes fixed."
            )
        return jax.lax.convert_element_type(x, y.dtype)

    return jax.tree_util.tree_map_with_path(check, new, old)


def _declared_extras(tx: Any) -> optax.GradientTransformationExtraArgs:
    """A foreign optimizer, handed only those of our extra arguments that its update declares."""
    parameters = inspect.signature(tx.update).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    declared = {p.name for p in parameters}

    def update(updates, state, params=None, **extra):
        given = extra if takes_all else {name: x for name, x in extra.items() if name in declared}
        return tx.update(updates, state, params, **given)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _route(name: str, wrapper: Callable, tx: Any, outer: list[str]) -> optax.GradientTransformationExtraArgs:
    """`wrapper(tx)` that sees its own slot of the method state, while `tx` sees the whole again."""

    def whole(updates, state, params=None, **extra):
        if "ctx" in extra:
            extra["method_state"] = extra["ctx"].method_states
        return tx.update(updates, state, params, **extra)

    wrapped = optax.with_extra_args_support(wrapper(optax.GradientTransformationExtraArgs(tx.init, whole)))

    def init(params):
        holes = sum(is_hole(leaf) for leaf in jax.tree.leaves(params, is_leaf=is_hole))
        if holes:
            raise ValueError(
                f"{name} sits inside the partition of {outer[-1] if outer else 'the optimizer'}, which hides {holes} "
                f"parameter groups or arrays from it: put {outer[-1] if outer else 'the partition'} last in the chain."
            )
        return wrapped.init(params)

    def update(updates, state, params=None, **extra):
        ctx, states = extra["ctx"], extra["method_state"]
        slot = {**extra, "method_state": states[name], "ctx": ctx.replace(name=name, method_states=states)}
        return _call(name, "optimizer", lambda: wrapped.update(updates, state, params, **slot))

    return optax.GradientTransformationExtraArgs(init, update)
