"""Ridge regression from sums against least squares with rows for the ridge."""

import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax.ops import ridge


@pytest.mark.parametrize("gamma", [0.3, np.array([0.3, 2.0, 0.0])])
def test_it_is_least_squares_with_a_row_for_each_ridge(gamma):
    rng = np.random.default_rng(0)
    rows, targets = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    more = np.diag(np.sqrt(np.broadcast_to(gamma, 3)))
    expected = np.linalg.lstsq(np.concatenate([rows, more]), np.concatenate([targets, np.zeros((3, 2))]))[0]
    found = ridge(jnp.asarray(rows.T @ rows), jnp.asarray(rows.T @ targets), gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
