"""The code of conditions: its length, its order, and no two alike."""

import jax.numpy as jnp
import numpy as np

from ctrain_jax.ops import mip_encode


def test_every_condition_has_the_same_length_and_a_code_of_its_own():
    conditions = np.random.default_rng(0).uniform(size=(50, 3))
    codes = np.asarray(mip_encode(jnp.asarray(conditions, jnp.float32)))
    np.testing.assert_allclose(np.square(codes).sum(-1), 3, atol=1e-6)
    np.testing.assert_allclose(2 / np.pi * np.arctan2(codes[:, 3:], codes[:, :3]), conditions, atol=1e-6)
