"""MAS against a loop over examples, each with a gradient of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from tests.short import short_learner, short_run


def looped(stream, state, t):
    """Mean over the rows of |d ||f(x)||^2 / d theta|, one row after the other; f are the logits of the task's head."""
    split = stream.experiences["train"]
    rows = split.rows[t][: split.size[t]]
    x = jnp.asarray(stream.source.train["inputs"][rows][:, np.asarray(stream.origins.view)[t]])
    task = jnp.int32(stream.origins.task[t])

    @jax.jit
    @jax.grad
    def slope(params, row):
        variables = core.Variables(params, state.model_state, state.frozen)
        logits = testing.standard_model().apply(variables, row[None], task=task[None])[0].logits[0]
        return logits[2 * t] ** 2 + logits[2 * t + 1] ** 2

    total = jax.tree.map(np.zeros_like, state.params)
    for row in x:
        total = jax.tree.map(lambda s, g: s + np.abs(g), total, slope(state.params, row))
    return jax.tree.map(lambda s: s / len(x), total)


def test_importance_is_the_sum_over_experiences_of_the_mean_over_examples():
    """Fifty and 37 rows in batches of 8, so with padding; heads of two classes each."""
    method = continual.mas(0.7)
    learner = short_learner(method, stream=testing.standard_stream(task_known=True))
    data, state = core.to_device(learner.stream), core.start(learner)
    expected = jax.tree.map(np.zeros_like, state.params)
    for t in range(2):
        state = core.run_experience(learner, state, data, t)
        expected = jax.tree.map(np.add, expected, looped(learner.stream, state, t))
        own = state.method_state["mas"]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), own.omega, expected)
        jax.tree.map(np.testing.assert_array_equal, own.anchor, state.params)
    away = jax.tree.map(lambda p: p + 0.1, state.params)
    value = 0.7 * 0.01 * sum(np.sum(o) for o in jax.tree.leaves(expected))
    np.testing.assert_allclose(method.loss(own, away, None)[0], value, rtol=1e-3)


def test_without_lam_it_is_plain_training():
    off, plain = (short_run(m, optimizer=optax.sgd(0.05)) for m in (continual.mas(0.0), core.identity()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), off.params, plain.params)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="lam must be 0 or above"):
        continual.mas(-1.0)
