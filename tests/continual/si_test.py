"""SI against the same descent written in numpy, with its path integral and its penalty by hand."""

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core
from tests.descent import flat, loss_and_slope, states_after
from tests.short import short_run

DAMPING = 0.05


def test_two_experiences_against_the_descent_written_out():
    """Ten epochs each with momentum: where it overshoots, a parameter's share of the decrease is negative."""
    lam, rate, steps = 0.5, 0.2, 10
    stream, states = states_after(continual.si(lam, damping=DAMPING), optax.sgd(rate, momentum=0.9), steps=steps, num=2)
    theta = flat(states[0].params)
    anchor, omega, velocity = theta, np.zeros_like(theta), np.zeros_like(theta)
    clipped = pulled = 0.0
    for t in range(2):
        path = np.zeros_like(theta)
        for _ in range(steps):
            slope = loss_and_slope(stream, t, theta)[1]
            pull = 2 * lam * omega * (theta - anchor)
            velocity = 0.9 * velocity + slope + pull
            path -= slope * (-rate * velocity)
            theta = theta - rate * velocity
            pulled = max(pulled, np.max(np.abs(pull)))
        omega = omega + path / ((theta - anchor) ** 2 + DAMPING)
        clipped = min(clipped, omega.min())
        omega, anchor = np.maximum(omega, 0), theta
        own = states[t + 1].method_state["si"]
        np.testing.assert_allclose(flat(states[t + 1].params), theta, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(flat(own.omega), omega, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(flat(own.anchor), flat(states[t + 1].params))
        assert not np.any(flat(own.path)), "the path of the next experience starts at 0"
    assert clipped < -0.01 and pulled > 0.01, "this example has negative shares, and a penalty with a slope"


def test_the_shares_of_small_steps_add_up_to_the_decrease_of_the_loss():
    stream, (start, end) = states_after(continual.si(1.0, damping=DAMPING), optax.sgd(0.01), steps=60, num=1)
    before, after = (loss_and_slope(stream, 0, flat(s.params))[0] for s in (start, end))
    moved = flat(end.params) - flat(start.params)
    shares = flat(end.method_state["si"].omega) * (moved**2 + DAMPING)
    assert before - after > 0.3
    np.testing.assert_allclose(shares.sum(), before - after, rtol=0.02)


def test_without_lam_it_is_plain_training():
    off, plain = (short_run(m, optimizer=optax.sgd(0.05)) for m in (continual.si(0.0), core.identity()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), off.params, plain.params)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="lam must be 0 or above"):
        continual.si(-1.0)
    with pytest.raises(ValueError, match="damping must be above 0"):
        continual.si(1.0, damping=0.0)
