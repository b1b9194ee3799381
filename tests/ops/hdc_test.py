"""Cosines of codes against angles."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.ops import hdc_encode


def test_cosines_of_codes_tell_angles():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50))
    y -= x * (x @ y) / (x @ x)
    turned = np.linspace(0, np.pi, 7)
    rows = np.cos(turned)[:, None] * x / np.linalg.norm(x) + np.sin(turned)[:, None] * y / np.linalg.norm(y)
    codes = hdc_encode(jnp.asarray(rows), jax.random.rademacher(jax.random.key(0), (50, 4000), jnp.int8))
    assert set(np.unique(codes)) == {-1, 1}
    np.testing.assert_allclose(codes @ codes[0] / 4000, 1 - 2 * turned / np.pi, atol=3 / np.sqrt(4000))


def test_a_row_on_a_plane_is_on_its_upper_side():
    np.testing.assert_array_equal(hdc_encode(jnp.zeros((1, 2)), jnp.ones((2, 3))), 1)
