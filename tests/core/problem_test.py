"""Losses and scores by row, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, streams
from tests.short import short_learner

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0], [1.0, 1.0, 4.0]], np.float32)
LABELS = np.array([0, 2, 1], np.int32)


def naive(logits, keep, target):
    """Cross-entropy over the kept classes."""
    exp = np.where(keep, np.exp(logits), 0.0)
    log = logits - np.log(exp.sum(-1, keepdims=True))
    return -np.where(target > 0, target * log, 0.0).sum(-1)


def test_cross_entropy_with_and_without_a_mask_of_classes():
    problem, outputs = core.classification(), core.Outputs(jnp.asarray(LOGITS))
    hard = np.eye(3)[LABELS]
    everything = np.ones((3, 3), bool)
    np.testing.assert_allclose(problem.loss(outputs, {"labels": LABELS}), naive(LOGITS, everything, hard), rtol=1e-5)
    keep = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 0]], bool)
    batch = {"labels": LABELS, "classes": keep}
    np.testing.assert_allclose(problem.loss(outputs, batch), naive(LOGITS, keep, hard), rtol=1e-5)
    # The third row's largest logit is masked; the first of its two equal ones wins, which is wrong.
    assert problem.metrics(outputs, batch)["accuracy"].tolist() == [1.0, 0.0, 0.0]
    assert problem.metrics(outputs, {"labels": np.array([0, 1, 2])})["accuracy"].tolist() == [1.0, 1.0, 1.0]
    grads = jax.grad(lambda x: problem.loss(core.Outputs(x), batch).sum())(outputs.logits)
    assert np.isfinite(grads).all() and (np.asarray(grads)[~keep] == 0).all()


def test_soft_targets_replace_labels_and_keep_to_the_mask():
    problem, outputs = core.classification(), core.Outputs(jnp.asarray(LOGITS))
    soft = np.array([[0.5, 0.5, 0.0], [0.0, 0.1, 0.9], [1.0, 0.0, 0.0]], np.float32)
    keep = soft > 0
    batch = {"labels": LABELS, "targets": soft, "classes": keep}
    np.testing.assert_allclose(problem.loss(outputs, batch), naive(LOGITS, keep, soft), rtol=1e-5, atol=1e-6)
    grads = jax.grad(lambda x: problem.loss(core.Outputs(x), batch).sum())(outputs.logits)
    assert np.isfinite(grads).all()


def test_the_weighted_mean_of_padding_alone_is_zero():
    assert float(core.weighted_mean(jnp.array([3.0, 5.0]), jnp.array([1.0, 0.0]))) == 3.0
    assert float(core.weighted_mean(jnp.array([3.0, 5.0]), jnp.zeros(2))) == 0.0
    # Weights below 1 in sum do not blow the loss up.
    assert float(core.weighted_mean(jnp.array([4.0]), jnp.array([0.5]))) == 2.0


def test_regression_is_the_default_for_float_labels_and_learns():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 12)).astype(np.float32)
    labels = (inputs @ rng.normal(size=(12, 2))).astype(np.float32)
    source = streams.arrays(inputs, labels, inputs, labels)
    stream = streams.permuted(source, 2)
    learner = short_learner(core.identity(), stream=stream, model=linear(), optimizer=optax.adam(5e-2), steps=80)
    result = core.run_stream(learner, 0)
    assert set(result.metrics) == {"mse"}
    assert float(result.metrics["mse"][0, 0]) < 0.2 * float(result.baseline["mse"][0])
    outputs = core.Outputs(jnp.asarray([[1.0, 2.0], [0.0, 0.0]]))
    np.testing.assert_allclose(
        core.regression().loss(outputs, {"labels": jnp.array([[0.0, 0.0], [1.0, 3.0]])}), [2.5, 5]
    )
    assert core.regression().loss(core.Outputs(jnp.ones((3, 1))), {"labels": jnp.zeros(3)}).tolist() == [1, 1, 1]


def linear():
    def init(rng, inputs):
        return core.Variables({"w": jnp.zeros((12, 2))})

    return core.Model(init, lambda v, x, **options: (core.Outputs(x @ v.params["w"]), v.model_state))


def test_next_token_is_the_mean_over_the_tokens_that_follow():
    """By hand: three tokens and one of padding give two questions; a row of padding gives 0."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 5)).astype(np.float32)
    tokens = np.array([[3, 1, 4, -1], [-1, -1, -1, -1]])
    problem = core.next_token()
    outputs, batch = core.Outputs(jnp.asarray(logits)), {"inputs": jnp.asarray(tokens)}
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(log_softmax[0, 0, 1] + log_softmax[0, 1, 4]) / 2
    np.testing.assert_allclose(problem.loss(outputs, batch), [expected, 0.0], rtol=1e-5)
    metrics = problem.metrics(outputs, batch)
    right = [logits[0, 0].argmax() == 1, logits[0, 1].argmax() == 4]
    np.testing.assert_allclose(metrics["accuracy"], [np.mean(right), 0.0])
    np.testing.assert_allclose(metrics["nats"], [expected, 0.0], rtol=1e-5)
    certain = core.Outputs(100.0 * jax.nn.one_hot(np.roll(tokens, -1, 1), 5))
    assert problem.metrics(certain, batch)["accuracy"].tolist() == [1.0, 0.0]
