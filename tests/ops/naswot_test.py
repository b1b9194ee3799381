"""The score by a loop, and rows that an untrained network cannot tell apart."""

import jax.numpy as jnp
import numpy as np

from ctrain_jax.ops import naswot


def test_it_is_the_log_determinant_of_units_in_common():
    codes = np.random.default_rng(0).random((5, 12)) < 0.4
    common = [12 - np.sum(one != other) for one in codes for other in codes]
    np.testing.assert_allclose(naswot(jnp.asarray(codes)), np.log(np.linalg.det(np.reshape(common, (5, 5)))), rtol=1e-5)


def test_the_same_code_twice():
    codes = jnp.array([[True, False], [True, False]])
    assert naswot(codes) == -np.inf
    np.testing.assert_allclose(naswot(codes, ridge=0.5), np.log(2.5**2 - 2**2), rtol=1e-5)
