"""The checks refuse what they should, in one sentence, and let tracers through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import ops

GOOD = {
    ops.check_positive: [1, 0.5, np.float32(2), jnp.array([1.0, 3.0]), np.inf],
    ops.check_non_negative: [0, 0.0, 3, jnp.zeros(2)],
    ops.check_fraction: [0, 1, 0.5, jnp.array([0.0, 1.0])],
}
BAD = {
    ops.check_positive: [0, -1, np.nan, "1", None, jnp.array([1.0, 0.0])],
    ops.check_non_negative: [-1e-9, np.nan, "a", None, jnp.array([1.0, -1.0])],
    ops.check_fraction: [-0.1, 1.1, np.nan, None, "0.5", jnp.array([0.5, 2.0])],
}


@pytest.mark.parametrize("check", GOOD)
def test_accepts(check):
    for value in GOOD[check]:
        check("lam", value)


@pytest.mark.parametrize("check", BAD)
def test_refuses_in_one_sentence(check):
    for value in BAD[check]:
        with pytest.raises(ValueError, match=r"(?s)^lam must be .*, got .*: give .*\.$"):
            check("lam", value)


@pytest.mark.parametrize("check", GOOD)
def test_tracers_pass_and_constants_are_still_checked_under_jit(check):
    def function(value):
        check("lam", value)
        return value

    assert jax.jit(function)(-5.0) == -5.0
    assert jax.vmap(function)(jnp.array([-5.0])) == -5.0
    constant = jnp.array(-5.0)
    with pytest.raises(ValueError, match="^lam must be"):
        jax.jit(lambda x: x + function(constant))(1.0)


def test_choice():
    ops.check_choice("mode", "b", ("a", "b"))
    with pytest.raises(ValueError, match="^mode must be one of 'a', 'b', got 'c': choose one of them.$"):
        ops.check_choice("mode", "c", ("a", "b"))
