"""UER against the loss of a step in float64 and its differences, and what a cosine leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core
from tests.rehearsed import RATE, Headless, answers, learner_of, log_softmax, rows_of, second_step, unit


def make():
    return continual.uer(20, scale=4.0)


def kernel(state):
    return np.asarray(state.params["head"]["kernel"], np.float64)


def by_hand(params, x, labels):
    """The first eight rows by their angles, the others by products without the bias."""
    _, hidden = answers(params, x)
    w = np.asarray(params["head"]["kernel"], np.float64)
    logits = np.concatenate([4.0 * unit(hidden[:8]) @ unit(w, axis=0), hidden[8:] @ w])
    return -log_softmax(logits)[np.arange(16), labels].mean()


def test_a_step_goes_down_the_angles_of_new_rows_and_the_products_of_replayed_ones():
    r = second_step(make)
    x, labels = rows_of(r.learner.stream, r.batch)
    assert set(labels[:8]) == {2, 3} and set(labels[8:]) > {0, 1} and r.batch["weights"].all()
    before, after = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), s.params) for s in (r.before, r.after))
    np.testing.assert_allclose(r.loss, by_hand(before, x, labels), rtol=1e-5)
    rng = np.random.default_rng(0)
    for _ in range(3):
        way = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), before)
        up, down = (by_hand(jax.tree.map(lambda p, d, e=e: p + e * d, before, way), x, labels) for e in (1e-5, -1e-5))
        step = jax.tree.map(lambda a, b, d: np.sum((a - b) * d), before, after, way)
        np.testing.assert_allclose(sum(jax.tree.leaves(step)) / RATE, (up - down) / 2e-5, rtol=1e-3, atol=1e-4)


def test_while_the_memory_is_empty_weights_turn_and_keep_their_length():
    learner = learner_of(make(), steps=7)
    data, step = core.to_device(learner.stream), jax.jit(learner.step)
    start = core.start(learner)
    first, _ = step(start, data, 0, 0)
    second, _ = step(first, data, 0, 1)
    along = [np.sum(kernel(a) * (kernel(b) - kernel(a)), 0) for a, b in ((start, first), (first, second))]
    assert np.abs(kernel(first) - kernel(start)).max() > 1e-3
    np.testing.assert_allclose(along[0], 0, atol=1e-6)
    assert np.abs(along[1]).max() > 1e-3, "replayed rows change the length"


def test_it_answers_with_products_and_without_the_bias():
    r = second_step(make)
    x = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    head = r.after.params["head"] | {"bias": jnp.arange(6.0)}
    state = r.after._replace(params=r.after.params | {"head": head})
    got = r.learner.predict(state, r.data, 1, {"inputs": jnp.asarray(x), "weights": jnp.ones(5)}).logits
    np.testing.assert_allclose(
        got, answers(state.params, x.astype(np.float64))[1] @ kernel(state), rtol=1e-4, atol=1e-5
    )


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number of at least 1, got 0"),
        ({"size": 5, "batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"size": 5, "scale": 0.0}, "scale must be above 0"),
        ({"size": 5, "policy": "fifo"}, "policy must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.uer(**arguments)
    with pytest.raises(ValueError, match="uer expects the last layer .* name it 'head'"):
        learner_of(continual.uer(4), model=core.from_linen(Headless()))
    learner = learner_of(continual.uer(20), continual.er(20))
    with pytest.raises(ValueError, match="no scale: put the method that appends rows before the one that adds"):
        jax.eval_shape(
            learner.step, jax.eval_shape(learner.init, jax.random.key(0)), core.to_device(learner.stream), 0, 0
        )
