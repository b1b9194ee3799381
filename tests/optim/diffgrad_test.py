"""diffGrad against its equations in numpy, and against Adam where the friction is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import optim


def steps_of(tx, grads):
    """What `tx` makes of each of the gradients, `[steps, size]`."""

    def step(state, grad):
        update, state = tx.update(grad, state)
        return state, update

    return jax.jit(lambda g: jax.lax.scan(step, tx.init(g[0]), g)[1])(jnp.asarray(grads, jnp.float32))


def test_twenty_steps_are_those_of_the_equations():
    grads = np.float32(np.random.default_rng(0).normal(size=(20, 5)) * [1e-3, 0.1, 1.0, 3.0, 40.0])
    b1, b2, eps, rate = 0.8, 0.95, 1e-3, 0.5
    m, v, last, expected = np.zeros(5), np.zeros(5), np.zeros(5), []
    for t, g in enumerate(np.float64(grads), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        friction = 1 / (1 + np.exp(-abs(last - g)))
        expected.append(-rate * friction * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps))
        last = g
    np.testing.assert_allclose(steps_of(optim.diffgrad(rate, b1, b2, eps), grads), expected, rtol=1e-6, atol=1e-6)


def test_a_constant_gradient_gets_half_of_adams_step_from_the_second_on():
    grads = np.tile(np.float32([1e-4, -0.3, 7.0]), (6, 1))
    ours, adams = steps_of(optim.scale_by_diffgrad(), grads), steps_of(optax.scale_by_adam(), grads)
    np.testing.assert_allclose(ours[1:], 0.5 * adams[1:], rtol=1e-6)
    # The gradient before the first is 0.
    np.testing.assert_allclose(ours[0], adams[0] / (1 + np.exp(-np.abs(grads[0]))), rtol=1e-6)


def test_a_gradient_that_jumps_gets_adams_step():
    grads = 50.0 * (-1.0) ** np.arange(8)[:, None]
    ours, adams = steps_of(optim.scale_by_diffgrad(), grads), steps_of(optax.scale_by_adam(), grads)
    ratio = np.asarray(ours / adams)
    assert np.all((ratio > 0.999) & (ratio <= 1.0))


def test_a_schedule_and_the_previous_gradient_in_its_own_precision():
    rate = optax.linear_schedule(1.0, 0.0, 4)
    grads = np.float32([[1.0], [-2.0], [0.5], [4.0]])
    ours, plain = steps_of(optim.diffgrad(rate), grads), steps_of(optim.scale_by_diffgrad(), grads)
    np.testing.assert_allclose(ours, -np.float32([[1.0], [0.75], [0.5], [0.25]]) * plain, rtol=1e-6)
    tx = optim.scale_by_diffgrad()
    params = jnp.ones(2, jnp.bfloat16)
    _, state = tx.update(jnp.ones(2, jnp.float32), tx.init(params), params)
    assert state.previous.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"b1": 1.5}, "b1 must be between 0 and 1, got 1.5"),
        ({"b2": -0.1}, "b2 must be between 0 and 1"),
        ({"eps": -1.0}, "eps must be 0 or above"),
        ({"eps_root": -1.0}, "eps_root must be 0 or above"),
    ],
)
def test_what_it_refuses(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        optim.diffgrad(1e-3, **wrong)
