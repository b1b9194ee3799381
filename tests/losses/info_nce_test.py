"""InfoNCE against loops in numpy, over keys that take part, and its gradient where none does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax.losses import info_nce

FEATURES, KEYS = (np.asarray(jax.random.normal(jax.random.key(i), shape)) for i, shape in enumerate([(4, 3), (7, 3)]))


def by_hand(features, keys, temperature, there):
    u, k = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (np.asarray(x, np.float64) for x in (features, keys)))
    losses = []
    for i in range(len(u)):
        total = sum(np.exp(u[i] @ k[j] / temperature) for j in range(len(k)) if there[j])
        losses.append(-np.log(np.exp(u[i] @ k[i] / temperature) / total) if there[i] else 0.0)
    return losses


def test_rows_by_hand_over_the_keys_that_take_part():
    for there in (np.ones(7, bool), np.array([1, 1, 0, 1, 0, 1, 1], bool), np.zeros(7, bool)):
        got = info_nce(jnp.asarray(FEATURES), jnp.asarray(KEYS), 0.3, jnp.asarray(there))
        np.testing.assert_allclose(got, by_hand(FEATURES, KEYS, 0.3, there), rtol=1e-5, atol=1e-6)
    got = info_nce(jnp.asarray(FEATURES), jnp.asarray(KEYS), 0.3)
    np.testing.assert_allclose(got, by_hand(FEATURES, KEYS, 0.3, np.ones(7, bool)), rtol=1e-5)
    with pytest.raises(ValueError, match="info_nce expects a key for each of 4 rows, got 3"):
        info_nce(jnp.asarray(FEATURES), jnp.asarray(KEYS[:3]))


def test_gradients_are_finite_without_features_or_keys():
    features = jnp.asarray(FEATURES).at[1].set(0.0)
    for there in (jnp.ones(7, bool), jnp.zeros(7, bool), jnp.arange(7) == 6):
        grads = jax.grad(lambda x, k, w=there: info_nce(x, k, 0.1, w).sum(), (0, 1))(features, jnp.asarray(KEYS))
        assert all(np.isfinite(g).all() for g in grads)
