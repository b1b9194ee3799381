"""The proxy-based contrastive loss against a loop over pairs of rows, and what the ledger of papers says of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax.losses import proxy_contrastive

LOGITS = jax.random.normal(jax.random.key(0), (6, 5)) * 4
LABELS = jnp.array([1, 4, 1, 2, 1, 4])


def by_hand(logits, labels, there):
    """Row by row, over the proxy of each row that is there."""
    z, labels, there = np.asarray(logits, np.float64), np.asarray(labels), np.flatnonzero(there)
    return [
        -np.log(np.exp(row[y]) / sum(np.exp(row[labels[i]]) for i in there)) for row, y in zip(z, labels, strict=True)
    ]


def test_rows_by_hand_over_those_that_are_counted():
    for there in (np.ones(6, bool), np.array([1, 1, 1, 0, 0, 1], bool)):
        got = proxy_contrastive(LOGITS, LABELS, jnp.asarray(there))
        np.testing.assert_allclose(got[there], np.array(by_hand(LOGITS, LABELS, there))[there], rtol=1e-5)
    np.testing.assert_allclose(proxy_contrastive(LOGITS, LABELS), by_hand(LOGITS, LABELS, np.ones(6, bool)), rtol=1e-5)


def test_each_class_once_is_cross_entropy_over_these_classes():
    labels = jnp.array([1, 4, 2])
    plain = optax.softmax_cross_entropy_with_integer_labels(LOGITS[:3][:, labels], jnp.arange(3))
    np.testing.assert_allclose(proxy_contrastive(LOGITS[:3], labels), plain, atol=1e-6)


def test_absent_classes_have_no_gradient_and_every_row_twice_costs_log_2_more():
    grad = jax.grad(lambda z: proxy_contrastive(z, LABELS).mean())(LOGITS)
    assert (grad[:, jnp.array([0, 3])] == 0).all() and (grad[:, jnp.array([1, 2, 4])] != 0).all()
    twice = proxy_contrastive(jnp.tile(LOGITS, (2, 1)), jnp.tile(LABELS, 2)).mean()
    np.testing.assert_allclose(twice - proxy_contrastive(LOGITS, LABELS).mean(), np.log(2), atol=1e-6)


def test_counts_are_exact_in_half_precision():
    labels = jnp.arange(1000) % 10 // 9
    losses = proxy_contrastive(jnp.zeros((1000, 2), jnp.bfloat16), labels)
    np.testing.assert_allclose(losses.astype(jnp.float32), np.log(1000), atol=0.02)


def test_rows_that_are_not_counted_and_no_rows_at_all_keep_gradients_finite():
    for there in (jnp.zeros(6, bool), jnp.arange(6) == 3):
        assert jnp.isfinite(jax.grad(lambda z, w=there: proxy_contrastive(z, LABELS, w).sum())(LOGITS)).all()
