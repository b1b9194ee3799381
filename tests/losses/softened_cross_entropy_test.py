"""The softened cross-entropy against numpy, and its gradient in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.losses import softened_cross_entropy

Z, V = (np.asarray(jax.random.normal(jax.random.key(k), (4, 5)), np.float64) * 2 for k in (0, 1))
WHERE = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def test_rows_by_hand_over_some_classes():
    got = softened_cross_entropy(jnp.asarray(Z), jnp.asarray(V), 3.0, jnp.asarray(WHERE))
    for z, v, where, value in zip(Z, V, WHERE, got, strict=True):
        expected = -(softmax(v[where] / 3) * np.log(softmax(z[where] / 3))).sum() if where.any() else 0.0
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert got[2] == 0 and got[3] == 0, "one class is certain, and no class costs nothing"


def test_the_gradient_is_the_difference_of_the_softmaxes_over_the_temperature():
    def whole(z):
        return softened_cross_entropy(z, jnp.asarray(V), 2.0, jnp.asarray(WHERE)).sum()

    got = jax.grad(whole)(jnp.asarray(Z))
    for z, v, where, grad in zip(Z, V, WHERE, got, strict=True):
        expected = np.zeros(5)
        if where.any():
            expected[where] = (softmax(z[where] / 2) - softmax(v[where] / 2)) / 2
        np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-6)


def test_heads_broadcast_against_rows_and_the_teacher_itself_is_the_minimum():
    heads = jnp.asarray([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]], bool)
    z, v = jnp.asarray(Z), jnp.asarray(V)
    both = softened_cross_entropy(z[:, None], v[:, None], 2.0, heads)
    for k in range(2):
        np.testing.assert_allclose(both[:, k], softened_cross_entropy(z, v, 2.0, heads[k]), rtol=1e-6)
    assert both.shape == (4, 2)
    assert np.all(softened_cross_entropy(v, v) < softened_cross_entropy(z, v))
