"""Refresh learning against its two moves written by hand: unlearn, then the base method's step from there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models
from tests.short import short_learner, short_run

MODEL = core.from_linen(models.MLP(6, hidden=(8,)))


def incoming():
    """Remembers the incoming rows of a step."""
    return core.Method(
        "incoming",
        init=lambda rng, params, ctx: jnp.zeros(8, jnp.int32),
        update=lambda s, ts, ctx: (ctx.incoming["row"], ts),
    )


def loss_and_gradient(params, stream, rows, t):
    """The mean cross-entropy of some rows of an experience and its gradient, by hand in float64."""
    x = stream.source.train["inputs"][rows][:, np.asarray(stream.origins.view)[t]].astype(np.float64)
    y = stream.source.train["labels"][rows]
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    before = x @ p["dense_0"]["kernel"] + p["dense_0"]["bias"]
    hidden = np.maximum(before, 0)
    logits = hidden @ p["head"]["kernel"] + p["head"]["bias"]
    soft = np.exp(logits - logits.max(1, keepdims=True))
    soft /= soft.sum(1, keepdims=True)
    slope = (soft - np.eye(6)[y]) / len(y)
    back = (slope @ p["head"]["kernel"].T) * (before > 0)
    grads = {
        "dense_0": {"kernel": x.T @ back, "bias": back.sum(0)},
        "head": {"kernel": hidden.T @ slope, "bias": slope.sum(0)},
    }
    return -np.mean(np.log(soft[np.arange(len(y)), y])), grads


def unlearned(params, grads, delta):
    def up(p, g):
        p = np.asarray(p, np.float64)
        return p + delta * np.linalg.norm(p) * g / max(np.linalg.norm(g), 1e-30)

    return jax.tree.map(up, params, grads)


def one_step(method, optimizer):
    """States before and after the fourth step of experience 0, and its rows."""
    learner = short_learner(core.chain(method, incoming()), model=MODEL, optimizer=optimizer)
    data, state, step = core.to_device(learner.stream), core.start(learner), jax.jit(learner.step)
    after = state
    for i in range(4):
        state, after = after, step(after, data, 0, i)[0]
    return learner.stream, state, after, np.asarray(after.method_state["incoming"])


def close(found, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected)


def test_a_step_is_an_ascent_by_delta_times_the_norm_then_a_descent_from_there():
    delta, rate = 1e-2, 0.1
    stream, before, after, rows = one_step(continual.refresh(delta, noise=0.0), optax.sgd(rate))
    there = unlearned(before.params, loss_and_gradient(before.params, stream, rows, 0)[1], delta)
    grads = loss_and_gradient(there, stream, rows, 0)[1]
    close(after.params, jax.tree.map(lambda q, g: q - rate * g, there, grads), rtol=1e-5, atol=1e-6)


def test_each_tensor_moves_by_delta_of_its_norm_and_the_loss_of_the_batch_does_not_fall():
    """Behind it an optimizer that stands still: what is left is the unlearning."""
    for delta in (1e-3, 1e-2):
        # The biases start at 0, where they stay: nothing has made them move before.
        stream, before, after, rows = one_step(continual.refresh(delta, noise=0.0), optax.set_to_zero())
        value, grads = loss_and_gradient(before.params, stream, rows, 0)
        for p, q, g in zip(*map(jax.tree.leaves, (before.params, after.params, grads)), strict=True):
            p, move = np.asarray(p, np.float64), np.asarray(q, np.float64) - np.asarray(p, np.float64)
            np.testing.assert_allclose(np.linalg.norm(move), delta * np.linalg.norm(p), rtol=1e-3)
            if np.any(p):
                assert np.sum(move * g) / (np.linalg.norm(move) * np.linalg.norm(g)) > 1 - 1e-5
        assert loss_and_gradient(after.params, stream, rows, 0)[0] > value


def test_noise_and_information_by_their_formula():
    scale, c, delta = 3.0, 1e3, 1e-2
    learner = short_learner(
        continual.refresh(delta, noise=scale, fisher_scale=c, decay=0.5), model=MODEL, optimizer=optax.set_to_zero()
    )
    data, state = core.to_device(learner.stream), core.start(learner)
    fisher, expected = [], jax.tree.map(lambda p: np.zeros(p.shape), state.params)
    for t in range(2):
        state = jax.tree.map(jnp.array, jax.jit(learner.end)(state, data, t))
        own = jax.tree.map(lambda p: np.zeros(p.shape), state.params)
        train = learner.stream.experiences["train"]
        for row in train.rows[t][: train.size[t]]:
            value, grads = loss_and_gradient(state.params, learner.stream, np.array([row]), t)
            probability = np.exp(-value)
            own = jax.tree.map(lambda f, g, p=probability: f + p * g**2, own, grads)
        expected = jax.tree.map(lambda f, new, n=train.size[t]: 0.5 * f + new / n, expected, own)
        fisher.append(expected)
    close(state.method_state["refresh"].fisher, expected, rtol=1e-4, atol=1e-8)

    after = jax.jit(learner.step)(state, data, 2, 0)[0]
    quiet = state.method_state["refresh"]._replace(noise=jnp.float32(0.0))
    plain = jax.jit(learner.step)(state._replace(method_state={"refresh": quiet}), data, 2, 0)[0]
    draws = jax.tree.map(
        lambda a, b, f: np.asarray(a - b, np.float64) * (1 + c * f) / (delta * scale),
        after.params,
        plain.params,
        expected,
    )
    every = np.concatenate([np.ravel(x) for x in jax.tree.leaves(draws)])
    # 166 draws of a standard normal: four standard deviations of their mean and of their variance.
    assert abs(every.mean()) < 4 / np.sqrt(every.size) and abs(every.var() - 1) < 4 * np.sqrt(2 / every.size)


def test_delta_zero_is_the_base_method_bit_for_bit():
    # A compiler may round a product and a sum once, in one of two programs: after a clip there is no product.
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), optax.clip(1e3))
    base, own = (
        short_run(method, model=MODEL, optimizer=optimizer)
        for method in (continual.er(20), core.chain(continual.refresh(0.0), continual.er(20)))
    )
    jax.tree.map(np.testing.assert_array_equal, base.params, own.params)


def test_inner_methods_see_the_parameters_that_the_gradient_was_taken_at():
    seen = {}

    def look(tx):
        def update(updates, state, params=None, *, ctx, **extra):
            seen.update(params=params, ctx=ctx.params, grads=updates, of_ctx=ctx.grads, extra=extra["grad"])
            return tx.update(updates, state, params, ctx=ctx, **extra)

        return optax.GradientTransformationExtraArgs(tx.init, update)

    method = core.chain(continual.refresh(0.1), core.Method("look", optimizer=look))
    learner = short_learner(method, model=MODEL)
    jax.make_jaxpr(learner.step)(core.start(learner), core.to_device(learner.stream), 0, 0)
    for a, b in (("params", "ctx"), ("grads", "of_ctx"), ("grads", "extra")):
        assert all(x is y for x, y in zip(*map(jax.tree.leaves, (seen[a], seen[b])), strict=True)), (a, b)


def test_what_it_refuses():
    for arguments, match in (
        ({"delta": -1.0}, "delta must be 0 or above"),
        ({"noise": -1.0}, "noise must be 0 or above"),
        ({"fisher_scale": -1.0}, "fisher_scale must be 0 or above"),
        ({"decay": 2.0}, "decay must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.refresh(**arguments)
