"""A method with exemplars at the beginning of its second experience, and what its network answers, in numpy."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, models, ops, testing

MODEL = core.from_linen(models.MLP(6, hidden=(8,)))
RATE = 0.1
FIELDS = {"row": jnp.int32, "experience": jnp.int32, "weights": jnp.float32}


class Skipping(nn.Module):
    """A model whose features are not those that its head is given."""

    @nn.compact
    def __call__(self, inputs):
        return core.Outputs(nn.Dense(6, name="head")(nn.Dense(5)(inputs)), inputs)


class Headless(nn.Module):
    """A model whose last layer goes by another name."""

    @nn.compact
    def __call__(self, inputs):
        return core.Outputs(nn.Dense(6)(inputs), inputs)


def spy(num):
    """Remembers the last batch; last in a chain."""
    return core.Method(
        "spy",
        init=lambda rng, params, ctx: {name: jnp.zeros(num, dtype) for name, dtype in FIELDS.items()},
        update=lambda s, ts, ctx: ({name: ctx.batch[name] for name in s}, ts),
    )


def learner_of(*methods, model=MODEL, optimizer=None, stream=None, **options):
    """One hidden layer under SGD: 50, 37 and 66 rows of two classes each, views, batches of 8."""
    stream, optimizer = stream or testing.standard_stream(), optimizer or optax.sgd(RATE)
    return core.make_learner(model, core.chain(*methods), optimizer, stream, **{"batch_size": 8, **options})


def first_experience(*methods, **options):
    """The parameters after the seven steps of the first experience."""
    learner = learner_of(*methods, steps=7, **options)
    state, _ = jax.jit(learner.chunk)(core.start(learner), core.to_device(learner.stream), 0, 0, 7)
    return state.params


@functools.cache
def second_step(make, rows=16, **options):
    """The states `trained, over, before, after` of `make()`: at the end of the first experience, and around a step.

    `trained` is before its end hook, `over` after it; `before` and `after` have taken one and two steps
    of the second experience. `loss` and `batch`, of so many `rows`, are those of the second step.
    """
    learner = learner_of(make(), spy(rows), steps=7, **options)
    data = core.to_device(learner.stream)
    compiled = {name: jax.jit(getattr(learner, name)) for name in ("begin", "chunk", "end")}
    r = types.SimpleNamespace(learner=learner, data=data, **compiled)
    r.trained, _ = r.chunk(r.begin(core.start(learner), data, 0), data, 0, 0, 7)
    return _around(r, r.end(r.trained, data, 0), 1)


@functools.cache
def third_step(make, **options):
    """The same for the third experience, after two steps of the second."""
    r = second_step(make, **options)
    return _around(types.SimpleNamespace(**vars(r)), r.end(r.after, r.data, 1), 2)


def _around(r, over, t):
    r.over = over
    r.before, _ = r.chunk(r.begin(over, r.data, t), r.data, t, 0, 1)
    r.after, record = r.chunk(r.before, r.data, t, 1, 1)
    r.loss, r.batch = float(record["loss"]), jax.tree.map(np.asarray, r.after.method_state["spy"])
    return r


def rows_of(stream, record):
    """Inputs float64 and labels of rows, each through the view of its experience."""
    rows, experiences = np.asarray(record["row"]), np.asarray(record["experience"])
    views = np.asarray(stream.origins.view)[experiences]
    inputs = np.take_along_axis(stream.source.train["inputs"][rows], views, axis=-1).astype(np.float64)
    return inputs, stream.source.train["labels"][rows]


def drawn(r, name, num=8, size=20):
    """What a method, whose hook `loss` draws from its memory, drew in the second step: the records of these rows."""
    key = jax.random.fold_in(jax.random.fold_in(r.before.rng, 1), 1)
    buffer = r.before.method_state[name].buffer
    held = min(int(buffer.seen), size)
    slots = ops.permute_index(core.tag(core.tag(key, name), "loss"), jnp.arange(num) % held, jnp.int32(held))
    return jax.tree.map(lambda x: np.asarray(x)[np.asarray(slots)], buffer.records)


def answers(params, x):
    """Logits and features in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    hidden = np.maximum(x @ p["dense_0"]["kernel"] + p["dense_0"]["bias"], 0)
    return hidden @ p["head"]["kernel"] + p["head"]["bias"], hidden


def log_softmax(logits):
    """By the definition."""
    return np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))


def unit(x, axis=-1):
    """Vectors of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=axis, keepdims=True), 1e-12)
