"""Masks against a sort in numpy, ties included."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.ops import straight_through, top_k_mask


def test_the_largest_entries_are_those_of_a_stable_sort():
    rng = np.random.default_rng(0)
    mask = jax.jit(top_k_mask)
    for scores in (
        rng.normal(size=(7, 9)),
        rng.integers(-2, 3, (7, 9)),
        np.zeros((7, 9)),
        np.where(rng.integers(0, 2, (7, 9)), 0.0, -0.0),
        -np.abs(rng.normal(size=(7, 9))) * 1e-30,
        rng.normal(size=(7, 9)) * 1e30,
    ):
        scores = scores.astype(np.float32)
        order = np.argsort(-scores.reshape(-1), kind="stable")
        for k in (0, 1, 20, 62, 63):
            expected = np.zeros(63, bool)
            expected[order[:k]] = True
            np.testing.assert_array_equal(mask(scores, k), expected.reshape(7, 9))


def test_many_masks_at_once():
    scores = jax.random.normal(jax.random.key(0), (3, 8))
    each = jax.vmap(top_k_mask)(scores, jnp.array([1, 4, 8]))
    assert each.sum(1).tolist() == [1, 4, 8]


def test_a_mask_is_0_and_1_exactly_and_passes_the_gradient_of_its_scores_on():
    scores = jnp.array([0.1, 1e8, -3.3])
    mask = top_k_mask(jnp.abs(scores), 1)
    assert straight_through(mask, scores).tolist() == [0.0, 1.0, 0.0]
    grads = jax.grad(lambda s: jnp.sum(jnp.array([2.0, 3.0, 5.0]) * straight_through(mask, jnp.abs(s))))(scores)
    assert grads.tolist() == [2.0, 3.0, -5.0]
