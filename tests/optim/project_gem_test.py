"""project_gem against every active set tried in turn, in float64, and against the conditions of the optimum."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import optim


def tree(vector):
    """[..., 30] as a tree of leaves [..., 4, 5] and [..., 10], float32."""
    vector = jnp.asarray(vector, jnp.float32)
    return {"a": vector[..., :20].reshape(*vector.shape[:-1], 4, 5), "b": vector[..., 20:]}


def flat(tree):
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def example(seed, num, cosine):
    """A gradient and references that resemble each other as `cosine` says, of lengths from 0.1 to 10."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=30)
    references = cosine**0.5 * common + (1 - cosine) ** 0.5 * rng.normal(size=(num, 30))
    return rng.normal(size=30) - common / 2, references * 10 ** rng.uniform(-1, 1, size=(num, 1))


@jax.jit
def project(updates, references, active, margin):
    tx = optim.project_gem(margin)
    return tx.update(updates, optax.EmptyState(), references=references, active=active)[0]


def brute_force(g, references, margin):
    """The dual problem: every set of variables that leave their bound, the best of the valid ones."""
    num, best = len(references), (np.inf, None)
    for free in itertools.product((False, True), repeat=num):
        free, v = np.array(free), np.full(num, margin)
        fixed = g + references[~free].T @ v[~free]
        v[free] = -np.linalg.solve(references[free] @ references[free].T, references[free] @ fixed)
        moved = g + references.T @ v
        if np.all(v >= margin - 1e-12) and moved @ moved < best[0]:
            best = (moved @ moved, moved)
    return best[1]


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("cosine", [0.0, 0.9, 0.99])
def test_it_solves_the_quadratic_program(margin, cosine):
    num, projected = 5, 0
    for seed in range(5):
        g, references = example(seed, num, cosine)
        found = flat(project(tree(g), tree(references), jnp.ones(num, bool), margin))
        expected = brute_force(g, references, margin) if (references @ g < 0).any() else g
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.linalg.norm(g))
        lengths = np.linalg.norm(references, axis=1) * np.linalg.norm(g)
        assert np.all(references @ found / lengths > -1e-4), "no reference conflicts with the answer"
        projected += np.linalg.norm(found - g) > 1e-2
    assert projected >= 3, "most of the examples are projected"


def test_one_reference_and_no_margin_is_agem():
    g, references = example(1, 1, 0.5)
    assert references[0] @ g < 0
    single = jax.tree.map(lambda r: r[0], tree(references))
    expected = optim.project_agem().update(tree(g), optax.EmptyState(), reference=single)[0]
    found = project(tree(g), tree(references), jnp.array([True]), 0.0)
    np.testing.assert_allclose(flat(found), flat(expected), atol=1e-5)


def test_only_active_references_matter_whatever_the_others_hold():
    g, references = example(0, 4, 0.5)
    active = jnp.array([True, False, True, False])
    filled = np.where(np.asarray(active)[:, None], references, np.nan)
    found = project(tree(g), tree(filled), active, 0.0)
    assert (references[::2] @ g < 0).any()
    np.testing.assert_allclose(flat(found), brute_force(g, references[::2], 0.0), atol=1e-4 * np.linalg.norm(g))
    nothing = project(tree(g), tree(np.full_like(references, np.nan)), jnp.zeros(4, bool), 0.5)
    jax.tree.map(np.testing.assert_array_equal, nothing, tree(g))


def test_where_nothing_conflicts_the_gradient_passes_margin_or_not():
    g, references = example(0, 3, 0.5)
    references *= np.sign(references @ g)[:, None]
    found = project(tree(g), tree(references), jnp.ones(3, bool), 0.5)
    jax.tree.map(np.testing.assert_array_equal, found, tree(g))
    zeros = project(tree(g), tree(0 * references), jnp.ones(3, bool), 0.5)
    jax.tree.map(np.testing.assert_array_equal, zeros, tree(g))


def test_dtypes_stay_and_a_bad_margin_is_refused():
    updates = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree(np.ones(30)))
    moved = project(updates, tree(-np.ones((1, 30))), jnp.array([True]), 0.0)
    assert {x.dtype for x in jax.tree.leaves(moved)} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(flat(moved), 0.0, atol=1e-2)
    with pytest.raises(ValueError, match="margin must be 0 or above"):
        optim.project_gem(-0.1)
    with pytest.raises(ValueError, match="project_gem expects active= among"):
        optim.project_gem().update(tree(np.ones(30)), optax.EmptyState(), references=tree(np.ones((1, 30))))
