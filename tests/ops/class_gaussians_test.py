"""Gaussians of classes against numpy over all rows, and their samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import ops

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 90)
# Far from 0, where sums of squares would leave nothing of the covariance in float32.
ROWS = (RNG.normal(size=(90, 4)) @ RNG.normal(size=(4, 4)) + 300 * (1 + LABELS[:, None])).astype(np.float32)
WEIGHTS = np.tile([1.0, 1.0, 0.0, 2.0, 1.0], 18)


def gathered(covariance):
    found = ops.class_gaussians(4, 4, covariance)
    for k in range(0, 90, 30):
        found = ops.add_to_gaussians(
            found,
            *(jnp.asarray(x[k : k + 30], t) for x, t in ((ROWS, "float32"), (LABELS, "int32"), (WEIGHTS, "float32"))),
        )
    return found


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_batches_give_the_mean_and_covariance_of_all_rows(covariance):
    found = gathered(covariance)
    for c in range(3):
        mine, weights = ROWS[LABELS == c].astype(np.float64), WEIGHTS[LABELS == c]
        wanted = np.cov(mine.T, aweights=weights, ddof=0)
        np.testing.assert_allclose(found.counts[c], weights.sum())
        np.testing.assert_allclose(found.means[c], np.average(mine, axis=0, weights=weights), rtol=1e-6)
        np.testing.assert_allclose(
            found.covariances[c], wanted if covariance == "full" else wanted.diagonal(), rtol=1e-3, atol=1e-3
        )
    assert all(np.all(np.asarray(leaf)[3] == 0) for leaf in found), "a class without a row"


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_samples_have_the_mean_and_the_covariance(covariance):
    found = gathered(covariance)
    draws = np.asarray(ops.gaussian_sampler(found)(jax.random.key(1), 20_000), np.float64)
    for c in range(3):
        wanted = np.asarray(found.covariances[c], np.float64)
        wanted = wanted if covariance == "full" else np.diag(wanted)
        np.testing.assert_allclose(draws[c].mean(0), found.means[c], atol=0.1)
        assert np.linalg.norm(np.cov(draws[c].T) - wanted) < 0.03 * np.linalg.norm(wanted)


def test_fewer_rows_than_features_still_have_samples():
    rows = np.maximum(RNG.normal(size=(20, 300)) + 5, 0) * 10 * (RNG.random(300) < 0.7)
    found = ops.add_to_gaussians(
        ops.class_gaussians(2, 300), jnp.asarray(rows, jnp.float32), jnp.arange(20) // 19, jnp.ones(20)
    )
    draws = np.asarray(ops.gaussian_sampler(found)(jax.random.key(0), 100), np.float64)
    assert np.all(np.isfinite(draws)), "one row of class 1, features that are always 0"
    np.testing.assert_allclose(draws[0].var(0).sum(), rows[:19].var(0).sum(), rtol=0.1)


def test_what_it_refuses():
    for arguments, match in (
        ((0, 4), "num_classes expects a whole number of at least 1"),
        ((4, 0), "width expects a whole number of at least 1"),
        ((4, 4, "half"), "covariance must be one of 'full', 'diagonal', got 'half'"),
    ):
        with pytest.raises(ValueError, match=match):
            ops.class_gaussians(*arguments)
