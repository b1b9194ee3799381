"""A-GEM against one step written by hand: the rows of the memory, the two gradients, the projection."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, ops, testing
from tests.short import short_run

RATE = 0.1


def learner_of(method, stream=None):
    """A softmax-linear model under SGD on the standard stream."""
    model = core.from_linen(models.MLP(6, hidden=()))
    stream = stream or testing.standard_stream()
    return core.make_learner(model, method, optax.sgd(RATE), stream, batch_size=8, epochs=1)


def spy():
    """Remembers the incoming rows of a step; last in a chain."""
    return core.Method(
        "spy",
        init=lambda rng, params, ctx: jnp.zeros(8, jnp.int32),
        update=lambda s, ts, ctx: (ctx.batch["row"], ts),
    )


def gradient(params, stream, rows, experiences):
    """Of the mean cross-entropy of some rows, each through its view, as one vector (bias, then kernel)."""
    head = jax.tree.map(lambda p: np.asarray(p, np.float64), params["head"])
    views = np.asarray(stream.origins.view)[experiences]
    x = np.take_along_axis(stream.source.train["inputs"][rows], views, axis=1).astype(np.float64)
    logits = x @ head["kernel"] + head["bias"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    slope = (p / p.sum(1, keepdims=True) - np.eye(6)[stream.source.train["labels"][rows]]) / len(rows)
    return np.concatenate([slope.sum(0), (x.T @ slope).ravel()])


def flat(params):
    return np.concatenate([np.asarray(params["head"][k], np.float64).ravel() for k in ("bias", "kernel")])


def test_a_step_is_the_projection_by_hand_and_the_memory_holds_earlier_rows_alone():
    learner = learner_of(core.chain(continual.agem(20, batch_size=5), spy()))
    stream, data, step = learner.stream, core.to_device(learner.stream), jax.jit(learner.step)
    state = core.run_experience(learner, core.start(learner), data, 0)
    conflicts = 0
    for i in range(4):  # the full batches of experience 1
        buffer = state.method_state["agem"].buffer
        assert set(np.asarray(buffer.records["experience"]).tolist()) == {0} and int(buffer.seen) == 50
        after, _ = step(state, data, 1, i)

        key = jax.random.fold_in(jax.random.fold_in(state.rng, 1), i)
        rng = core.tag(core.tag(key, "agem"), "optimizer")
        at = np.asarray(ops.permute_index(rng, jnp.arange(5), jnp.int32(20)))
        drawn = np.asarray(buffer.records["row"])[at]
        g = gradient(state.params, stream, np.asarray(after.method_state["spy"]), np.ones(8, int))
        r = gradient(state.params, stream, drawn, np.zeros(5, int))
        conflicts += g @ r < 0
        g = g - (g @ r) / (r @ r) * r if g @ r < 0 else g
        np.testing.assert_allclose(flat(after.params), flat(state.params) - RATE * g, rtol=1e-5, atol=1e-6)
        state = after
    assert conflicts, "a step of this example is projected"


def test_the_first_experience_is_plain_training():
    plain, own = (short_run(m, experiences=1).params for m in (core.identity(), continual.agem(20)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, own)


def test_a_ring_holds_as_many_random_rows_of_each_class_that_was_seen():
    learner = learner_of(continual.agem(24, policy="ring"))
    stream, data, state = learner.stream, core.to_device(learner.stream), core.start(learner)
    for t in range(3):
        state = core.run_experience(learner, state, data, t)
        rows = np.asarray(state.method_state["agem"].buffer.records["row"])[: 8 * (t + 1)]
        labels = stream.source.train["labels"][rows]
        assert np.bincount(labels, minlength=6).tolist() == [4] * 2 * (t + 1) + [0] * (4 - 2 * t)
        assert len(set(rows.tolist())) == len(rows)


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number of at least 1, got 0"),
        ({"size": 5, "batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"size": 5, "policy": "fifo"}, "policy must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.agem(**arguments)
