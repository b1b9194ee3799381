"""The cross-entropy of logits of one length: numpy, its gradient, and what it does not see."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.losses import normalized_cross_entropy

Z = np.asarray(jax.random.normal(jax.random.key(0), (4, 5)), np.float64) * 3
LABELS = np.array([0, 2, 4, 3])
WHERE = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 0]], bool)


def test_rows_and_gradients_by_hand_over_some_classes():
    def whole(z):
        losses = normalized_cross_entropy(z, jnp.asarray(LABELS), 0.5, jnp.asarray(WHERE))
        return losses.sum(), losses

    grads, losses = jax.grad(whole, has_aux=True)(jnp.asarray(Z))
    for z, where, label, value, grad in zip(Z, WHERE, LABELS, losses, grads, strict=True):
        own, length = z[where], np.linalg.norm(z[where])
        odds = np.exp(own / length / 0.5)
        wanted = odds / odds.sum() - (np.flatnonzero(where) == label)
        np.testing.assert_allclose(value, -np.log((odds / odds.sum())[np.flatnonzero(where) == label][0]), atol=1e-6)
        expected = np.zeros(5)
        expected[where] = (wanted - own / length * (own @ wanted) / length) / length / 0.5
        np.testing.assert_allclose(grad, expected, atol=1e-6)


def test_one_factor_for_all_logits_of_a_row_changes_nothing_and_no_length_is_no_preference():
    z, labels = jnp.asarray(Z), jnp.asarray(LABELS)
    plain = normalized_cross_entropy(z, labels)
    for factor in (0.01, 100.0):
        np.testing.assert_allclose(normalized_cross_entropy(factor * z, labels), plain, rtol=1e-5)
    assert np.ptp(plain) > 1
    np.testing.assert_allclose(normalized_cross_entropy(0 * z, labels), np.log(5), rtol=1e-6)
