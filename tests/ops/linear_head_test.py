"""`fit_head` against steps of gradient descent in numpy."""

import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax.ops import LinearHead, fit_head


def test_steps_are_those_of_softmax_regression():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(3, 5, 4)).astype(np.float32), rng.integers(0, 3, (3, 5))
    start = LinearHead(jnp.zeros((4, 3)), jnp.zeros(3))
    head = fit_head(
        start,
        lambda i: (jnp.asarray(features)[i], jnp.asarray(labels)[i]),
        optax.softmax_cross_entropy_with_integer_labels,
        optax.sgd(0.5),
        3,
    )
    kernel, bias = np.zeros((4, 3)), np.zeros(3)
    for x, y in zip(features.astype(np.float64), labels, strict=True):
        odds = np.exp(x @ kernel + bias)
        error = (odds / odds.sum(1, keepdims=True) - np.eye(3)[y]) / 5
        kernel, bias = kernel - 0.5 * x.T @ error, bias - 0.5 * error.sum(0)
    np.testing.assert_allclose(head.kernel, kernel, atol=1e-6)
    np.testing.assert_allclose(head.bias, bias, atol=1e-6)
