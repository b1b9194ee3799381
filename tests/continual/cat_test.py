"""CAT: networks that train as they would alone, and their probe against ridge regression in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from ctrain_jax.continual.representation import _cat
from tests.short import short_learner

GAMMA = 0.5


@functools.cache
def after_two():
    """The learner, and its states at the start and after the first and the second of three experiences."""
    learner = short_learner(continual.cat(2, gamma=GAMMA), optimizer=optax.sgd(0.1))
    data = core.to_device(learner.stream)
    states = [core.start(learner)]
    for t in range(2):
        kept = jax.tree.map(jnp.array, states[-1])  # a run takes what it is given
        states.append(core.run_experience(learner, kept, data, t))
    return learner, data, *states


def trained(of):
    return of.params, of.model_state


def network(tree, k):
    return jax.tree.map(lambda x: x[k], tree)


def test_each_network_trains_as_it_would_alone():
    """BatchNorm's statistics included."""
    _, data, start, first, _ = after_two()
    alone = short_learner(core.identity(), optimizer=optax.sgd(0.1))
    for k in range(2):
        own = core.Variables(*network(trained(start), k))
        expected = core.run_experience(alone, alone.init(jax.random.key(0), own), data, 0)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            network(trained(first), k),
            trained(expected),
        )
    kernels = first.params["head"]["kernel"]
    assert np.abs(kernels[0] - kernels[1]).min() > 1e-5, "they are drawn apart"


def features_of(experience):
    """Features of both networks, float64 `[rows, 2 x 16]`, by the plain model; and the labels."""
    learner, _, _, _, second = after_two()
    train, source = learner.stream.experiences["train"], learner.stream.source
    rows = train.rows[experience][: train.size[experience]]
    inputs = source.train["inputs"][rows][:, np.asarray(learner.stream.origins.view)[experience]]
    variables = [core.Variables(*network(trained(second), k)) for k in range(2)]
    each = [np.float64(testing.standard_model().apply(v, inputs)[0].features) for v in variables]
    return np.concatenate(each, 1), source.train["labels"][rows], inputs


def test_the_head_is_ridge_regression_with_an_intercept_on_the_features_of_both():
    learner, data, _, _, second = after_two()
    (old, old_labels, _), (new, new_labels, inputs) = features_of(0), features_of(1)
    x, y = np.concatenate([old, new]), np.eye(6)[np.concatenate([old_labels, new_labels])]
    x0, y0 = x - x.mean(0), y - y.mean(0)
    kernel = np.linalg.solve(x0.T @ x0 + 2 * GAMMA * np.eye(32), x0.T @ y0)
    expected = (new - x.mean(0)) @ kernel + y.mean(0)
    asked = {"inputs": inputs, "weights": np.ones(len(inputs))}
    logits = np.asarray(jax.jit(learner.predict)(second, data, 1, asked).logits)
    np.testing.assert_allclose(logits[:, :4], expected[:, :4], atol=1e-3)
    assert np.all(logits[:, 4:] < -1e30), "classes never seen are never answered"


def test_before_the_first_experience_is_over_the_mean_of_the_networks_answers():
    learner, data, start, _, _ = after_two()
    inputs = np.float32(np.eye(12))
    each = [
        testing.standard_model().apply(core.Variables(*network(trained(start), k)), inputs)[0].logits for k in range(2)
    ]
    asked = {"inputs": inputs, "weights": np.ones(12)}
    found = jax.jit(learner.predict)(start, data, 0, asked).logits
    np.testing.assert_allclose(found, np.mean(each, 0), rtol=1e-5, atol=1e-6)


def test_equal_networks_answer_as_one():
    """As those of a start from trained variables are."""
    learner, model = after_two()[0], testing.standard_model()
    variables = model.init(jax.random.key(3), jnp.zeros((1, 12)))
    start = learner.init(jax.random.key(0), variables)
    for k in range(2):
        jax.tree.map(np.testing.assert_array_equal, network(trained(start), k), trained(variables))
    x, y = features_of(0)[0][:, :16].astype(np.float32), np.eye(6, dtype=np.float32)[features_of(0)[1]]
    answers = []
    for num in (1, 3):
        rows = _cat.with_one(jnp.tile(x, num))
        answers.append(_cat.probe(rows.T @ rows, rows.T @ y, num * GAMMA)(jnp.tile(x, num)))
    np.testing.assert_allclose(*answers, atol=1e-3)


def test_the_networks_are_frozen_after_the_first_experience_unless_they_are_to_learn_on():
    _, _, _, first, second = after_two()
    jax.tree.map(np.testing.assert_array_equal, trained(first), trained(second))
    learner = short_learner(continual.cat(2, train=True))
    before = core.start(learner)
    after, _ = jax.jit(learner.step)(before, core.to_device(learner.stream), 1, 0)
    assert not np.any(before.params["head"]["kernel"] == after.params["head"]["kernel"])


def test_what_it_refuses():
    with pytest.raises(ValueError, match="num expects a whole number of at least 1, got 0"):
        continual.cat(0)
    with pytest.raises(ValueError, match="gamma must be above 0"):
        continual.cat(gamma=0.0)
