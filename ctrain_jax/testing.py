"""The checks that every method, every transform of a model and every optimizer passes, for your own as well.

from ctrain_jax import testing
testing.check_method(my_method(...))
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, streams

_SIZES = (50, 37, 66)
_CLASSES = 6
_FEATURES = 12


class _Net(nn.Module):
    @nn.compact
    def __call__(self, inputs, train: bool = False):
        # A bias in front of BatchNorm has no gradient but rounding, which Adam would turn into steps.
        hidden = nn.Dense(16, use_bias=False)(inputs)
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
        features = nn.relu(nn.Dense(16)(hidden))
        return core.Outputs(nn.Dense(_CLASSES, name="head")(features), features)


def standard_model() -> core.Model:
    """The model of the checks: an MLP with BatchNorm that returns features."""
    return core.from_linen(_Net())


def standard_stream(*, task_known: bool = False) -> core.Stream:
    """The stream of the checks: three experiences of unequal sizes and two classes each, each with a view of its own.

    Args:
      task_known: give the task of a row when it is predicted, and a head for each task.

    Returns:
      The stream.
    """
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.permutation(np.arange(size) % 2) + 2 * t for t, size in enumerate(_SIZES)])
    centres = rng.normal(size=(_CLASSES, _FEATURES))
    inputs = (centres[labels] + 0.7 * rng.normal(size=(len(labels), _FEATURES))).astype(np.float32)
    source = streams.arrays(inputs, labels, inputs, labels, name="blobs")
    build = streams.task_incremental if task_known else streams.class_incremental
    stream = build(source, len(_SIZES))
    views = jnp.asarray([rng.permutation(_FEATURES) for _ in _SIZES])
    return stream._replace(
        name="standard", origins=stream.origins._replace(view=views), view_fn=lambda x, order: x[order]
    )


def check_method(method: core.Method, *, stream: core.Stream | None = None, model: core.Model | None = None) -> None:
    """Hold a method against the promises of the library.

    On a network with BatchNorm and a stream with views and experiences of unequal sizes: the step is traced once for
    the whole stream; a rerun, any length of chunks, and a resume in mid-experience through a checkpoint end in the same
    bits; every leaf of its state matters; it maps over seeds; its parts keep their structure, shapes and dtypes;
    `chain(identity(), m)` is `m`.

    Args:
      method: the method.
      stream: `standard_stream()` by default, with known tasks where the method needs them.
      model: `standard_model()` by default.

    Raises:
      AssertionError: a promise that does not hold, in one sentence.
    """
    stream = stream or standard_stream(task_known="task" in method.needs)
    traces: list[int] = []
    counted = core.chain(method, core.Method("counter", update=lambda s, ts, ctx: (traces.append(1) or s, ts)))
    learner = core.make_learner(model or standard_model(), counted, optax.adamw(3e-3), stream, batch_size=8, epochs=2)
    data = core.to_device(stream)
    whole = _finish(learner, data, core.start(learner, 0))
    _require(len(traces) == 1, f"{method.name}: the step was traced {len(traces)} times over the stream, expected once")
    _require(
        core.chain(core.identity(), method).parts == core.chain(method).parts,
        f"chain(identity(), {method.name}) is not {method.name}",
    )
    again = _finish(learner, data, core.start(learner, 0), chunk=7)
    _same(whole, again, f"{method.name}: chunks of 7 steps end in other bits than whole experiences")

    paused = _pause(learner, data)
    stored = jax.tree.map(_copy, paused)
    _same(
        whole,
        _finish(learner, data, jax.tree.map(_copy, stored)),
        f"{method.name}: a run resumed in mid-experience ends in other bits than an uninterrupted one",
    )
    _check_leaves(method.name, learner, data, stored)
    states = jax.eval_shape(jax.vmap(lambda key: learner.init(key)), jax.random.split(jax.random.key(0), 2))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    jax.eval_shape(jax.vmap(learner.step, (0, None, None, None)), states, data, number, number)


def check_model_transform(transform: core.ModelTransform, model: core.Model, inputs: jax.Array) -> None:
    """Hold a transform of a model against the promises of the library.

    Training moves every leaf of `params` and none of `frozen`; the model maps over seeds; init is a function of its
    key alone.

    Args:
      transform: the transform.
      model: a model that it takes.
      inputs: some of its inputs, `[B, ...]`.

    Raises:
      AssertionError: a promise that does not hold, in one sentence.
    """
    changed = transform(model)
    # Two functions: one would be traced once.
    variables, again = (jax.jit(lambda key: changed.init(key, inputs))(jax.random.key(0)) for _ in range(2))
    _same(variables, again, "init is not a function of its key")
    outputs, _ = changed.apply(variables, inputs)
    _require(bool(jnp.isfinite(outputs.logits).all()), "the transformed model answers numbers that are not finite")
    tx = optax.adam(1e-2)

    def step(carry, _):
        variables, state = carry

        def loss(params):
            answer, model_state = changed.apply(variables._replace(params=params), inputs, train=True)
            return jnp.square(answer.logits - 1.0).mean(), model_state

        grads, model_state = jax.grad(loss, has_aux=True)(variables.params)
        updates, state = tx.update(grads, state, variables.params)
        params = optax.apply_updates(variables.params, updates)
        return (variables._replace(params=params, model_state=model_state), state), None

    # Some leaves (the A of LoRA) move from the second step on only.
    (trained, _), _ = jax.jit(lambda v: jax.lax.scan(step, (v, tx.init(v.params)), None, length=3))(variables)
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(variables.params), jax.tree.leaves(trained.params), strict=True
    ):
        _require(not np.array_equal(old, new), f"training does not move params{jax.tree_util.keystr(path)}")
    _same(variables.frozen, trained.frozen, "training moves frozen arrays")
    jax.eval_shape(jax.vmap(lambda key: changed.init(key, inputs)), jax.random.split(jax.random.key(0), 2))


def check_optimizer(
    transform: optax.GradientTransformation,
    *,
    extra: Mapping[str, Any] | Callable[[optax.Params], Mapping[str, Any]] | None = None,
) -> None:
    """Hold an optax transform (an optimizer, a wrapper, a projection) against the promises of the library.

    On a nested tree with a scalar: init is a function of params, update of its arguments, and `jit` changes neither;
    updates are finite and have the structure, shapes and dtypes of params, those of bfloat16 as well; so has the state
    what init gave it, which is no parameter itself; extra arguments that nobody knows are ignored; a step from a copy
    in numpy ends in the same bits; and in `optax.chain`, in `lax.scan`, mapped over params, a run is the same.

    Args:
      transform: the transform.
      extra: the extra arguments that its update needs, or a function of params that makes them anew at each step, as
        in `lambda params: {"grad_fn": jax.grad(loss)}`.

    Raises:
      AssertionError: a promise that does not hold, in one sentence.

    Example:
      >>> check_optimizer(optax.adam(1e-3))
    """
    tx = optax.with_extra_args_support(transform)
    params, others = _sample_params(0), _sample_params(1)
    state = tx.init(params)
    for leaf in jax.tree.leaves(state):
        _require(isinstance(leaf, jax.Array), f"init puts {leaf!r} into the state: expected arrays alone")
        shared = any(leaf is p for p in jax.tree.leaves(params))
        _require(not shared, "init keeps a parameter itself: copy it, for a loop that donates both")
    again = tx.init(params)
    _same_types(state, again, "init is not a function of params")
    _same(state, again, "init is not a function of params: two calls differ")
    _near(state, jax.jit(tx.init)(params), "init gives another state under jit")

    def update(tx, params, state, i, **unknown):
        grads = jax.tree.map(lambda p: (p + jnp.sin(3 * p + i)).astype(p.dtype), params)
        needed = extra(params) if callable(extra) else extra or {}
        return tx.update(grads, state, params, **needed, **unknown)

    # Where half precision meets a norm over all leaves, jit moves more than the last digit: types alone are checked.
    mixed = {**params, "dense": optax.tree.cast(params["dense"], jnp.bfloat16)}
    kept = tx.init(mixed)
    for updates, new in (update(tx, mixed, kept, 0), jax.eval_shape(functools.partial(update, tx), mixed, kept, 0)):
        _same_types(mixed, updates, "updates are not like params of half precision")
        _same_types(kept, new, "update changes what the state of params of half precision is like")

    compiled = jax.jit(functools.partial(update, tx))
    here, now = params, state
    for i in range(3):
        result = update(tx, here, now, i)
        _same_types(params, result[0], "updates are not like params")
        _same_types(state, result[1], "update changes what the state is like")
        finite = all(bool(jnp.isfinite(u).all()) for u in jax.tree.leaves(result[0]))
        _require(finite, "updates of finite gradients are not finite")
        _same(result, update(tx, here, now, i), "update is not a function of its arguments: two calls differ")
        try:
            ignored = update(tx, here, now, i, argument_that_nobody_knows=1.0)
        except TypeError as error:
            raise AssertionError(f"update refuses an extra argument that it does not know: {error}") from error
        _same(result, ignored, "update reads an extra argument that it does not know")
        fast = compiled(here, now, i)
        _near(result, fast, "update gives another result under jit")
        stored = jax.tree.map(jnp.asarray, jax.device_get((here, now)))
        _same(fast, compiled(*stored, i), "a step from a copy in numpy ends in other bits")
        here, now = optax.apply_updates(here, result[0]), result[1]

    chained = optax.chain(optax.scale(1.0), tx, optax.scale(1.0))

    def ends(params):
        def step(carry, i):
            params, state = carry
            updates, state = update(chained, params, state, i)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, chained.init(params)), jnp.arange(3))[0][0]

    both = jax.tree.map(lambda *p: jnp.stack(p), params, others)
    mapped = jax.tree.map(lambda p: p[0], jax.jit(jax.vmap(ends))(both))
    _near(here, mapped, "in optax.chain, in lax.scan, mapped over params, a run ends elsewhere")


def _finish(learner: core.Learner, data: core.Data, state: core.TrainState, chunk: int | None = None) -> Any:
    for event in core.iterate(learner, data, state, chunk_steps=None if chunk is None else lambda: chunk):
        state = event.state
    return state


def _pause(learner: core.Learner, data: core.Data) -> core.TrainState:
    """The state in the middle of the second experience."""
    first, second = learner.spec.steps[0], learner.spec.steps[1] // 2
    lengths = iter((first, second))
    events = core.iterate(learner, data, core.start(learner, 0), chunk_steps=lambda: next(lengths))
    next(events)
    return next(events).state


def _check_leaves(name: str, learner: core.Learner, data: core.Data, paused: core.TrainState) -> None:
    """Changes each leaf of the method's state: what is learned or what is answered must change."""
    at = np.int32(1)
    record = {"row": np.arange(32, dtype=np.int32), "experience": np.ones(32, np.int32)}
    inputs = data.source["train"]["inputs"][record["row"]]
    batch = {"inputs": inputs, "weights": jnp.ones(32), "row": jnp.asarray(record["row"])}
    if learner.spec.task_known:
        batch |= {"task": jnp.ones(32, jnp.int32), "experience": jnp.ones(32, jnp.int32)}
    if learner.spec.heads != "all":
        batch["classes"] = jnp.broadcast_to(data.origins.classes[1], (32, learner.spec.num_classes))
    answer = jax.jit(lambda state: learner.predict(state, data, at, batch).logits)

    def look(state: core.TrainState) -> Iterator[Any]:
        yield answer(state)
        events = core.iterate(learner, data, jax.tree.map(_copy, state))
        last = next(events).state
        yield answer(last), last.params, last.model_state
        for event in events:
            last = event.state
        yield answer(last), last.params, last.model_state

    expected = [jax.tree.map(_copy, seen) for seen in look(paused)]
    leaves, tree = jax.tree_util.tree_flatten_with_path(paused.method_state)
    for k, (path, leaf) in enumerate(leaves):
        if leaf.size == 0:
            continue
        moved = False
        # What is only compared (an argmax of logits) may have to move far.
        for changed in (_changed(leaf), _turned(leaf)):
            others = [other for _, other in leaves]
            others[k] = changed
            state = paused._replace(method_state=jax.tree.unflatten(tree, others))
            moved = moved or any(not _equal(a, b) for a, b in zip(expected, look(state), strict=False))
        where = jax.tree_util.keystr(path)
        _require(moved, f"{name}: changing its state at {where} changes neither parameters nor predictions: drop it")


def _changed(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.vmap(jax.random.fold_in, (0, None))(leaf.reshape(-1), 1).reshape(leaf.shape)
    # In numpy: outside of a program jax compiles each operation for each shape.
    old = np.asarray(leaf)
    if old.dtype == np.bool_:
        return jnp.asarray(~old)
    if np.issubdtype(old.dtype, np.integer):
        rolled = np.roll(old, 1)
        return jnp.asarray(old + 1 if np.array_equal(rolled, old) else rolled, old.dtype)
    noise = np.random.default_rng(7).normal(size=old.shape)
    return jnp.asarray(old + 0.5 + 0.5 * np.abs(noise), old.dtype)


def _turned(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_ and leaf.ndim:
        return jnp.asarray(np.roll(leaf, leaf.shape[-1] // 2, axis=-1))
    changed = _changed(leaf)
    return jnp.asarray(-4 * np.asarray(changed), leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else changed


def _copy(leaf: Any) -> Any:
    return jnp.array(leaf, copy=True)


def _equal(a: Any, b: Any) -> bool:
    return all(np.array_equal(_raw(x), _raw(y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _raw(leaf: Any) -> np.ndarray:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _sample_params(seed: int) -> dict[str, Any]:
    """A nested tree with a scalar, without a zero."""
    key = jax.random.key(seed)
    numbers = 0.5 + jax.random.uniform(key, (3, 4))
    return {"dense": {"kernel": numbers[:, :2], "bias": -numbers[0, 2:]}, "rest": [numbers[1, 2], numbers[1:, 3]]}


def _same_types(expected: Any, got: Any, sentence: str) -> None:
    """Structure, shapes and dtypes."""
    structures = jax.tree.structure(expected), jax.tree.structure(got)
    _require(structures[0] == structures[1], f"{sentence}: expected {structures[0]}, got {structures[1]}")
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(got), strict=True):
        one, other = (jax.eval_shape(jnp.asarray, leaf) for leaf in (x, y))
        fits = (one.shape, one.dtype) == (other.shape, other.dtype)
        where = jax.tree_util.keystr(path)
        _require(fits, f"{sentence} at {where}: expected {one.dtype}{[*one.shape]}, got {other.dtype}{[*other.shape]}")


def _near(a: Any, b: Any, sentence: str) -> None:
    """Equal to rounding: to the square root of a dtype's precision, of the largest number in a leaf."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        floats = jnp.issubdtype(x.dtype, jnp.floating)
        share = float(jnp.finfo(x.dtype).eps) ** 0.5 if floats else 0.0
        x, y = (_raw(leaf).astype(np.float64) for leaf in (x, y))
        most = np.max(np.abs(x), initial=0.0, where=np.isfinite(x))
        close = np.allclose(x, y, rtol=0, atol=share * most, equal_nan=True)
        _require(close, f"{sentence}, first at {jax.tree_util.keystr(path)}")


def _same(a: Any, b: Any, sentence: str) -> None:
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        _require(np.array_equal(_raw(x), _raw(y)), f"{sentence}, first at {jax.tree_util.keystr(path)}")


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)
