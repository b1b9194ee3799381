"""The L2 anchor against the same descent written in numpy."""

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core
from tests.descent import flat, loss_and_slope, states_after
from tests.short import short_run


def test_the_first_experience_is_plain_and_the_next_are_pulled_to_the_last():
    lam, rate, steps = 0.8, 0.3, 10
    stream, states = states_after(continual.l2_anchor(lam), optax.sgd(rate), steps=steps, num=3)
    theta = flat(states[0].params)
    for t in range(3):
        anchor, pulled = theta, 0.0
        for _ in range(steps):
            pull = lam * (theta - anchor) if t > 0 else 0.0
            theta = theta - rate * (loss_and_slope(stream, t, theta)[1] + pull)
            pulled = np.max(np.abs(pull))
        np.testing.assert_allclose(flat(states[t + 1].params), theta, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(flat(states[t + 1].method_state["l2_anchor"].anchor), flat(states[t + 1].params))
        assert pulled > 0.1 or t == 0


def test_without_lam_it_is_plain_training():
    off, plain = (short_run(m, optimizer=optax.sgd(0.05)) for m in (continual.l2_anchor(0.0), core.identity()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), off.params, plain.params)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="lam must be 0 or above"):
        continual.l2_anchor(-1.0)
