"""Fast and slow weights against steps of Reptile by hand, at both ends, and under a penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core
from tests.rehearsed import learner_of
from tests.short import bits, edges_of


@pytest.fixture(scope="module")
def edges():
    return edges_of(continual.fast_slow(0.3))


def slow(state):
    own = state.method_state["fast_slow"]
    return own.slow, own.model_state


def test_slow_weights_take_steps_of_reptile_and_fast_ones_answer(edges):
    for t, (first, last, after) in enumerate(edges(decay=0.5)):
        assert bits(first[1:3]) == bits(slow(first)) == bits(slow(last)), "training begins at the slow weights"
        assert bits(after[1:3]) == bits(last[1:3]), "and what it ends with stays"
        for a, b, c in zip(*map(jax.tree.leaves, (first[1:3], last[1:3], slow(after))), strict=True):
            assert not np.array_equal(a, b)
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            np.testing.assert_allclose(c, a + 0.3 * 0.5**t * (b - a), rtol=1e-5, atol=1e-6)
        assert bits(after.opt_state) == bits(last.opt_state)


def test_one_goes_on_from_the_fast_weights_and_nothing_moves_the_slow_ones_at_0(edges):
    for _, last, after in edges(eps=1.0):
        assert bits(slow(after)) == bits(last[1:3])
    whole, none = edges(eps=1.0), edges(eps=0.0)
    assert all(bits(slow(after)) == bits(slow(whole[0][0])) for _, _, after in none)
    assert bits(none[0][1].params) == bits(whole[0][1].params)
    assert bits(none[1][1].params) != bits(whole[1][1].params)


def test_the_fast_weights_are_held_near_the_earlier_ones_not_near_the_slow():
    """The penalty of `ewc` at the first step of the second experience, by hand."""
    learner = learner_of(continual.fast_slow(0.3), continual.ewc(100.0), steps=7)
    data, one = core.to_device(learner.stream), jnp.int32(1)
    state = core.run_experience(learner, core.start(learner), data, 0)
    fast = jax.tree.map(np.asarray, state.params)
    begun = jax.jit(learner.begin)(state, data, one)
    own = begun.method_state["ewc"]
    free = begun._replace(method_state={**begun.method_state, "ewc": own._replace(lam=jnp.float32(0))})
    gradient = jax.jit(learner.gradient)
    value, plain = (float(gradient(ts, data, one, 0)[0]) for ts in (begun, free))
    terms = jax.tree.map(
        lambda f, p, a: np.sum(np.float64(f) * np.square(np.float64(p) - a)), own.fisher, begun.params, fast
    )
    expected = 50 * sum(jax.tree.leaves(terms))
    assert expected > 1e-3
    np.testing.assert_allclose(value - plain, expected, rtol=1e-3)


@pytest.mark.parametrize("given", [{"eps": 1.5}, {"decay": -0.1}])
def test_what_it_refuses(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} must be between 0 and 1"):
        continual.fast_slow(**given)
