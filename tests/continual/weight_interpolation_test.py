"""Interpolation against a mixture by hand, and its two ends."""

import jax
import numpy as np
import pytest

from ctrain_jax import continual
from tests.short import bits, edges_of


@pytest.fixture(scope="module")
def edges():
    return edges_of(continual.weight_interpolation(0.3))


def test_each_end_is_a_part_of_the_way_and_the_first_the_whole(edges):
    for t, (first, last, after) in enumerate(edges()):
        part = 1.0 if t == 0 else 0.3
        for field in ("params", "model_state"):
            old, new, found = (jax.tree.leaves(getattr(state, field)) for state in (first, last, after))
            assert len(old) > 0
            for a, b, c in zip(old, new, found, strict=True):
                assert not np.array_equal(a, b)
                expected = np.asarray(a, np.float64) * (1 - part) + np.asarray(b, np.float64) * part
                np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-6)
        assert bits(after.opt_state) == bits(last.opt_state)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_one_is_plain_training_and_none_stands_still_after_the_first(edges, alpha):
    for t, (first, last, after) in enumerate(edges(alpha=alpha)):
        expected = first if t > 0 and alpha == 0 else last
        assert bits(after.params) == bits(expected.params) and bits(after.model_state) == bits(expected.model_state)


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_what_it_refuses(alpha):
    with pytest.raises(ValueError, match="alpha must be between 0 and 1"):
        continual.weight_interpolation(alpha)
