"""Fields of binary weights against all of their states, draws of them, and a training step by hand."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core, models
from ctrain_jax.continual.regularization._binary_variational import kl, moments
from tests.short import short_learner

RNG = np.random.default_rng(0)


def test_the_divergence_is_that_of_all_states():
    theta, prior = RNG.normal(size=(2, 8)) * 2
    states = np.array(list(itertools.product((-1, 1), repeat=8)))
    log_q, log_p = (states @ field - np.log(2 * np.cosh(field)).sum() for field in (theta, prior))
    expected = np.sum(np.exp(log_q) * (log_q - log_p))
    np.testing.assert_allclose(kl(jnp.asarray(theta), jnp.asarray(prior)), expected, rtol=1e-5)
    value, grad = jax.value_and_grad(kl)(jnp.asarray(theta), jnp.asarray(theta))
    assert value == 0 and np.abs(grad).max() < 1e-6
    assert np.isfinite(kl(jnp.float32(200.0), jnp.float32(-200.0)))


def test_fields_of_16_bits_keep_their_type_and_the_divergence_its_digits():
    inner = core.from_linen(models.MLP(6, hidden=()))

    def init(rng, inputs):
        made = inner.init(rng, inputs)
        return made._replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), made.params))

    learner = short_learner(continual.binary_variational(), model=core.Model(init, inner.apply))
    state = jax.eval_shape(learner.end, core.start(learner), core.to_device(learner.stream), 0)
    assert state.method_state["binary_variational"].prior["head"]["kernel"].dtype == jnp.bfloat16
    prior = jnp.asarray(RNG.normal(size=1000), jnp.bfloat16)
    theta = prior + jnp.asarray(0.02 * RNG.normal(size=1000), jnp.bfloat16)
    new, old = np.float64(theta), np.float64(prior)
    expected = np.sum((new - old) * np.tanh(new) - np.log(np.cosh(new) / np.cosh(old)))
    value, grad = jax.value_and_grad(kl)(theta, prior)
    np.testing.assert_allclose(value, expected, rtol=1e-3)
    np.testing.assert_allclose(np.float64(grad), (new - old) * (1 - np.tanh(new) ** 2), atol=1e-3)


def test_what_a_unit_sums_up_has_the_moments_of_drawn_weights():
    theta, x = RNG.normal(size=(100, 2)), RNG.normal(size=(3, 100))
    drawn = np.where(RNG.random((20000, 100, 2)) < (1 + np.tanh(theta)) / 2, 1, -1)
    sums = np.einsum("bi,sio->sbo", x, drawn) / 10
    mean, deviation = moments(jnp.asarray(theta), jnp.asarray(x))
    np.testing.assert_allclose(mean, sums.mean(0), atol=0.03)
    np.testing.assert_allclose(deviation, sums.std(0), rtol=0.03)


def test_the_loss_is_cross_entropy_and_the_divergence_from_the_experience_before():
    learner = short_learner(continual.binary_variational(0.5), model=core.from_linen(models.MLP(6, hidden=())))
    data, start = core.to_device(learner.stream), core.start(learner)
    value = jax.jit(lambda state, t: learner.gradient(state, data, t, 0)[0])
    sizes = learner.stream.experiences["train"].size
    fields = start.params["head"]["kernel"]
    half = start._replace(method_state=jax.tree.map(jnp.zeros_like, start.method_state))
    added = float(value(start, 0) - value(half, 0))
    np.testing.assert_allclose(added, 0.5 * kl(fields, jnp.zeros_like(fields)) / sizes[0], rtol=1e-3)
    state = core.run_experience(learner, start, data, 0)
    own = state.method_state["binary_variational"]
    np.testing.assert_array_equal(own.prior["head"]["kernel"], state.params["head"]["kernel"])
    off = state._replace(method_state={"binary_variational": own._replace(weight=jnp.float32(0))})
    assert value(state, 1) == value(off, 1), "nothing is lost before the first step"
    moved = state._replace(params=jax.tree.map(lambda leaf: leaf + 0.3, state.params))
    expected = 0.5 * kl(moved.params["head"]["kernel"], own.prior["head"]["kernel"]) / sizes[1]
    off = moved._replace(method_state=off.method_state)
    np.testing.assert_allclose(float(value(moved, 1) - value(off, 1)), expected, rtol=1e-3)


def test_the_mean_network_answers_and_training_draws():
    inner = core.from_linen(models.MLP(6, hidden=(16,)))
    model = continual.binary_variational().model(inner)
    x = RNG.normal(size=(4, 12)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    params = jax.tree.map(np.array, variables.params)
    plain = inner.init(jax.random.key(0), x).params
    np.testing.assert_allclose(params["head"]["kernel"], plain["head"]["kernel"] * 4, rtol=1e-6)
    params["head"]["bias"] += 1.0
    hidden = np.maximum(x @ np.tanh(params["dense_0"]["kernel"]) / math.sqrt(12), 0)
    expected = hidden @ np.tanh(params["head"]["kernel"]) / 4
    answer = model.apply(variables._replace(params=params), x, rng=jax.random.key(0))[0].logits
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    draws = [model.apply(variables, x, train=True, rng=jax.random.key(k))[0].logits for k in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 0.1


def test_each_row_has_a_draw_of_its_own():
    model = continual.binary_variational().model(core.from_linen(models.MLP(6, hidden=())))
    x = RNG.normal(size=12).astype(np.float32)
    variables = model.init(jax.random.key(0), x[None])
    rows = model.apply(variables, np.tile(x, (5000, 1)), train=True, rng=jax.random.key(0))[0].logits
    mean, deviation = moments(variables.params["head"]["kernel"], x)
    np.testing.assert_allclose(rows.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(rows.std(0), deviation, rtol=0.06)


class Convolution(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(2, (2, 2), name="conv")(x.reshape(-1, 4, 3, 1))
        return nn.Dense(6, name="head")(x.reshape(x.shape[0], -1))


class Stacked(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        def block(layer, x, _):
            return nn.relu(layer(x)), None

        scan = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(6, name="head")(scan(nn.Dense(12, name="blocks"), x, None)[0])


def test_what_it_refuses():
    with pytest.raises(ValueError, match="weight must be 0 or above"):
        continual.binary_variational(-1.0)
    with pytest.raises(ValueError, match="kernels of Dense layers of linen models, got conv.kernel"):
        short_learner(continual.binary_variational(), model=core.from_linen(Convolution()))
    with pytest.raises(ValueError, match="kernels of Dense layers of linen models, got blocks.kernel"):
        short_learner(continual.binary_variational(), model=core.from_linen(Stacked()))
