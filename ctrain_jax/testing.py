"""The checks that every method and every transform of a model passes, for your own as well.

from ctrain_jax import testing
testing.check_method(my_method(...))
"""

from collections.abc import Iterator
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
        return core.Outputs(nn.Dense(_CLASSES)(features), features)


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
        changed = [other for _, other in leaves]
        changed[k] = _changed(leaf)
        state = paused._replace(method_state=jax.tree.unflatten(tree, changed))
        moved = any(not _equal(a, b) for a, b in zip(expected, look(state), strict=False))
        where = jax.tree_util.keystr(path)
        _require(moved, f"{name}: changing its state at {where} changes neither parameters nor predictions: drop it")


def _changed(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.vmap(jax.random.fold_in, (0, None))(leaf.reshape(-1), 1).reshape(leaf.shape)
    if leaf.dtype == jnp.bool_:
        return ~leaf
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return jnp.roll(leaf, 1) if leaf.ndim and not _equal(jnp.roll(leaf, 1), leaf) else leaf + 1
    noise = jax.random.normal(jax.random.key(7), leaf.shape, leaf.dtype)
    return leaf + 0.5 + 0.5 * jnp.abs(noise)


def _copy(leaf: Any) -> Any:
    return jnp.array(leaf, copy=True)


def _equal(a: Any, b: Any) -> bool:
    return all(np.array_equal(_raw(x), _raw(y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _raw(leaf: Any) -> np.ndarray:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _same(a: Any, b: Any, sentence: str) -> None:
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        _require(np.array_equal(_raw(x), _raw(y)), f"{sentence}, first at {jax.tree_util.keystr(path)}")


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)
