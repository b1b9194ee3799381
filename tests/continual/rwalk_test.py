"""RWalk against the same descent written in numpy, its intervals cut afterwards."""

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core
from tests.descent import flat, loss_and_slope, states_after
from tests.short import short_run


def test_two_experiences_against_the_walk_written_out():
    """Intervals of 3, 3 and 1 steps; with momentum some parameters overshoot, and their share is negative."""
    lam, alpha, damping, rate, steps = 0.3, 0.8, 0.05, 0.3, 7
    method = continual.rwalk(lam, alpha=alpha, period=3, damping=damping)
    stream, states = states_after(method, optax.sgd(rate, momentum=0.9), steps=steps, num=2)
    walk, slopes = [flat(states[0].params)], []
    anchor, omega, velocity, fisher, average = walk[0], 0.0, 0.0, 0.0, None
    negative, pulled, distance = 0, 0.0, 0.0
    for t in range(2):
        for _ in range(steps):
            slopes.append(loss_and_slope(stream, t, walk[-1])[1])
            pull = 2 * lam * omega * (walk[-1] - anchor)
            velocity = 0.9 * velocity + slopes[-1] + pull
            walk.append(walk[-1] - rate * velocity)
            pulled = max(pulled, np.max(np.abs(pull)))
        score = 0.0
        for first, last in ((0, 3), (3, 6), (6, 7)):
            g = np.array(slopes[t * steps + first : t * steps + last])
            places = np.array(walk[t * steps + first : t * steps + last + 1])
            fisher = alpha * np.mean(g**2, axis=0) + (1 - alpha) * fisher
            share = np.einsum("kij,kij->ij", -g, np.diff(places, axis=0))
            kl = 0.5 * fisher * (places[-1] - places[0]) ** 2
            score = score + np.clip(share / (kl + damping), 0, None)
            negative, distance = negative + np.sum(share < -1e-3), max(distance, kl.max())
        average = score if average is None else (average + score) / 2
        omega = sum((x - x.min()) / (x.max() - x.min()) for x in (fisher, average))
        anchor = walk[-1]
        own = states[t + 1].method_state["rwalk"]
        np.testing.assert_allclose(flat(states[t + 1].params), anchor, rtol=1e-3, atol=1e-4)
        for name, expected in (("fisher", fisher), ("score", average), ("omega", omega), ("anchor", anchor)):
            np.testing.assert_allclose(flat(getattr(own, name)), expected, rtol=1e-3, atol=1e-4, err_msg=name)
        assert own.steps == 0 and not np.any(flat(own.path)) and not np.any(flat(own.squares))
    assert negative > 0 and pulled > 0.01 and distance > 0.5 * damping, "all parts of this example matter"


def test_without_lam_it_is_plain_training():
    off, plain = (short_run(m, optimizer=optax.sgd(0.05)) for m in (continual.rwalk(0.0), core.identity()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), off.params, plain.params)


def test_what_it_refuses():
    for arguments, match in (
        ({"lam": -1.0}, "lam must be 0 or above"),
        ({"lam": 1.0, "alpha": 1.5}, "alpha must be between 0 and 1"),
        ({"lam": 1.0, "period": 0}, "period expects a whole number of at least 1"),
        ({"lam": 1.0, "damping": 0.0}, "damping must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.rwalk(**arguments)
