"""`herding` against the definition, evaluated row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax.ops import herding


def naive(features, mask, num):
    features = np.asarray(features, np.float64)
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-300)
    rows = [i for i in range(len(features)) if mask[i]]
    mean, picked = features[rows].mean(0), []
    for k in range(1, num + 1):
        left = [i for i in rows if i not in picked]
        if not left:
            return picked + [-1] * (num - len(picked))
        total = sum((features[i] for i in picked), np.zeros(features.shape[1]))
        picked.append(min(left, key=lambda i: np.sum((mean - (total + features[i]) / k) ** 2)))
    return picked


@pytest.mark.parametrize(("rows", "num"), [(40, 12), (9, 20), (25, 25)])
def test_equals_definition(rows, num):
    for seed in range(5):
        features = jax.random.normal(jax.random.key(seed), (rows, 6)) + 0.7
        # Dead rows: the norm is part of the objective.
        features = jnp.where(jnp.arange(rows)[:, None] % 4 == 0, 0, features)
        mask = jax.random.bernoulli(jax.random.key(seed + 100), 0.7, (rows,))
        got = jax.jit(herding, static_argnums=2)(features, mask, num)
        assert got.tolist() == naive(features, np.asarray(mask), num)
        assert got.dtype == jnp.int32


def test_zero_features_and_empty_mask():
    features = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    assert herding(features, jnp.ones(3), 3).tolist() == naive(features, np.ones(3), 3)
    assert herding(features, jnp.zeros(3), 2).tolist() == [-1, -1]


def test_masked_rows_do_not_matter():
    features = jax.random.normal(jax.random.key(0), (10, 3))
    mask = jnp.arange(10) < 6
    spoiled = features.at[6:].set(jnp.nan)
    assert herding(spoiled, mask, 6).tolist() == herding(features[:6], mask[:6], 6).tolist()


def test_follows_the_mean_better_than_random_subsets():
    features = jax.random.normal(jax.random.key(1), (200, 8)) + 0.5
    unit = features / jnp.linalg.norm(features, axis=1, keepdims=True)

    def distance(rows):
        return jnp.linalg.norm(unit.mean(0) - unit[rows].mean(0))

    orders = jax.vmap(lambda k: jax.random.permutation(k, 200)[:10])(jax.random.split(jax.random.key(2), 500))
    assert distance(herding(features, jnp.ones(200), 10)) < jax.vmap(distance)(orders).min()


def test_maps_over_classes():
    features = jax.random.normal(jax.random.key(2), (30, 4))
    masks = jnp.arange(30) % 3 == jnp.arange(3)[:, None]
    got = jax.vmap(herding, (None, 0, None))(features, masks, 5)
    assert got.tolist() == [naive(features, np.asarray(m), 5) for m in masks]


def test_refusals():
    with pytest.raises(ValueError, match="num must be above 0"):
        herding(jnp.ones((3, 2)), jnp.ones(3), 0)
    with pytest.raises(ValueError, match=r"herding needs features \[N, D\]"):
        herding(jnp.ones((3, 2, 2)), jnp.ones(3), 1)
