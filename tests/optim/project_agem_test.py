"""project_agem against the projection of flat vectors in float64, and against the constraint that it solves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import optim


def trees(seed):
    """Two trees of one structure whose inner product is negative for some seeds and positive for others."""
    shapes = {"a": {"kernel": (3, 4), "bias": (4,)}, "b": (5,), "c": ()}

    def draw(rng):
        return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), shapes, is_leaf=is_shape)

    rng = np.random.default_rng(seed)
    return draw(rng), draw(rng)


def is_shape(x):
    return isinstance(x, tuple)


def flat(tree):
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def project(updates, reference):
    tx = optim.project_agem()
    return jax.jit(tx.update)(updates, tx.init(updates), reference=reference)[0]


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_projection_of_one_flat_vector(seed):
    updates, reference = trees(seed)
    g, r = flat(updates), flat(reference)
    # Onto the hyperplane orthogonal to r, by the outer product.
    expected = (np.eye(len(r)) - np.outer(r, r) / (r @ r)) @ g if g @ r < 0 else g
    np.testing.assert_allclose(flat(project(updates, reference)), expected, rtol=1e-5, atol=1e-6)


def test_the_seeds_above_hold_both_cases():
    signs = {bool(flat(g) @ flat(r) < 0) for g, r in map(trees, range(4))}
    assert signs == {True, False}


def test_a_gradient_that_agrees_passes_bit_for_bit_and_so_does_any_with_no_reference():
    updates, _ = trees(0)
    for reference in (jax.tree.map(lambda g: 0.3 * g, updates), optax.tree.zeros_like(updates)):
        jax.tree.map(np.testing.assert_array_equal, project(updates, reference), updates)
    np.testing.assert_allclose(flat(project(updates, optax.tree.scale(-2.0, updates))), 0.0, atol=1e-6)


def test_the_optimizer_behind_it_sees_the_projected_gradient_and_keeps_dtypes():
    tx = optax.chain(optim.project_agem(), optax.clip_by_global_norm(1.0), optax.scale(-1.0))
    updates = {"w": jnp.array([30.0, -40.0], jnp.bfloat16)}
    reference = {"w": jnp.array([0.0, 1.0], jnp.float32)}
    moved, _ = tx.update(updates, tx.init(updates), reference=reference)
    assert moved["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(moved["w"], [-1.0, 0.0])


def test_it_refuses_an_update_without_a_reference():
    with pytest.raises(ValueError, match="project_agem expects reference= among"):
        optim.project_agem().update(jnp.ones(2), optax.EmptyState())
