"""The supervised contrastive loss against loops in numpy, and against optax where both are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax.losses import supervised_contrastive

FEATURES = np.asarray(jax.random.normal(jax.random.key(0), (7, 3)), np.float64)
LABELS = np.array([0, 1, 0, 2, 1, 0, 3])  # 2 and 3 are alone


def by_hand(features, labels, temperature, there):
    units = [row / np.sqrt(np.sum(row**2)) for row in features]
    losses = []
    for i in range(len(labels)):
        others = [a for a in range(len(labels)) if a != i and there[a]]
        positives = [p for p in others if labels[p] == labels[i]]
        if not there[i] or not positives:
            losses.append(0.0)
            continue
        total = sum(np.exp(units[i] @ units[a] / temperature) for a in others)
        losses.append(-np.mean([np.log(np.exp(units[i] @ units[p] / temperature) / total) for p in positives]))
    return losses


def test_rows_by_hand_over_those_that_take_part():
    for there in (np.ones(7, bool), np.array([1, 1, 1, 1, 0, 1, 1], bool), np.zeros(7, bool)):
        got = supervised_contrastive(jnp.asarray(FEATURES), jnp.asarray(LABELS), 0.3, jnp.asarray(there))
        np.testing.assert_allclose(got, by_hand(FEATURES, LABELS, 0.3, there), rtol=1e-5, atol=1e-6)
    everyone = supervised_contrastive(jnp.asarray(FEATURES), jnp.asarray(LABELS), 0.3)
    np.testing.assert_allclose(everyone, by_hand(FEATURES, LABELS, 0.3, np.ones(7, bool)), rtol=1e-5, atol=1e-6)


def test_with_one_positive_for_each_row_it_is_ntxent():
    features, labels = jnp.asarray(FEATURES[:6]), jnp.array([0, 0, 1, 1, 2, 2])
    ours = supervised_contrastive(features, labels, 0.2).mean()
    np.testing.assert_allclose(ours, optax.losses.ntxent(features, labels, 0.2), rtol=1e-5)


def test_gradients_are_finite_without_features_positives_or_others():
    features = jnp.asarray(FEATURES).at[2].set(0.0)
    for there in (jnp.ones(7, bool), jnp.zeros(7, bool), jnp.arange(7) == 3):
        grads = jax.grad(lambda x, w=there: supervised_contrastive(x, jnp.asarray(LABELS), 0.1, w).sum())(features)
        assert np.isfinite(grads).all()
