"""The effective rank where it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import analysis

RNG = np.random.default_rng(0)


def orthonormal(rows, columns):
    return np.linalg.qr(RNG.normal(size=(rows, columns)))[0]


def with_singular_values(sizes, rows=40, columns=16):
    return orthonormal(rows, len(sizes)) * sizes @ orthonormal(columns, len(sizes)).T


def test_equal_singular_values_are_counted():
    for rank in (1, 5, 16):
        np.testing.assert_allclose(analysis.rankme(with_singular_values([3.0] * rank)), rank, rtol=1e-4)


def test_it_is_the_entropy_of_the_singular_values():
    # p = 4/8, 2/8, 1/8, 1/8: the entropy is 7/4 bits.
    np.testing.assert_allclose(analysis.rankme(with_singular_values([4.0, 2.0, 1.0, 1.0])), 2**1.75, rtol=1e-4)
    z = RNG.normal(size=(50, 8))
    p = np.sqrt(np.linalg.eigvalsh(z.T @ z))
    p = p / p.sum() + 1e-7
    np.testing.assert_allclose(analysis.rankme(z), np.exp(-np.sum(p * np.log(p))), rtol=1e-5)


def test_rotation_scale_and_more_columns_than_rows():
    z = RNG.normal(size=(30, 8)) * np.arange(1, 9)
    rank = float(jax.jit(analysis.rankme)(z))
    assert 1 < rank < 8
    for same in (z @ orthonormal(8, 8), 1e3 * z, z.T, z[::-1], np.concatenate([z, 0 * z])):
        np.testing.assert_allclose(analysis.rankme(same), rank, rtol=1e-4)
    # Not centred: a large mean is the one direction that counts.
    assert analysis.rankme(z + 1e4) < 1.1


def test_eps_is_added_to_each_of_the_shares():
    with_eps = analysis.rankme(with_singular_values([1.0, 1.0]), eps=0.01)
    p = np.array([0.51, 0.51] + 14 * [0.01])
    np.testing.assert_allclose(with_eps, np.exp(-np.sum(p * np.log(p))), rtol=1e-4)


def test_half_precision_and_a_representation_of_zeros():
    z = jnp.asarray(RNG.normal(size=(30, 8)), jnp.bfloat16)
    assert analysis.rankme(z).dtype == jnp.float32
    # The worst of collapses is the least rank, not a nan that a maximum over runs would pick.
    np.testing.assert_allclose(analysis.rankme(np.zeros((4, 3))), 1, atol=1e-4)


def test_what_does_not_fit_is_refused():
    for call, match in (
        (lambda: analysis.rankme(np.zeros(3)), "features \\[N, K\\]"),
        (lambda: analysis.rankme(np.zeros((0, 3))), "features \\[N, K\\]"),
        (lambda: analysis.rankme(np.eye(3), eps=0.0), "eps must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
