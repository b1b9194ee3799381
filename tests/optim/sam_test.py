"""SAM against its equations in numpy, as the optimizer of a learner, and where parts of the tree are cut out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import core, models, optim, testing
from tests.short import short_run


def loss(params):
    return jnp.sum(params["a"] ** 4) + jnp.prod(params["a"]) * params["b"] ** 2


START = {"a": np.float32([1.0, -0.5]), "b": np.float32(0.7)}


def run(tx, steps=5, grad_fn=None):
    grad_fn = grad_fn or jax.grad(loss)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), None, length=steps)[0][0])(START)


def test_steps_are_those_of_the_equations():
    def slope(a, b):
        product = a[0] * a[1]
        return np.array([4 * a[0] ** 3 + a[1] * b**2, 4 * a[1] ** 3 + a[0] * b**2, 2 * b * product])

    theta, velocity, rho = np.array([1.0, -0.5, 0.7]), np.zeros(3), 0.3
    for _ in range(5):
        g = slope(theta[:2], theta[2])
        up = theta + rho * g / np.sqrt(np.sum(g**2))
        velocity = slope(up[:2], up[2]) + 0.9 * velocity
        theta = theta - 0.02 * velocity
    ours = run(optim.sam(optax.sgd(0.02, momentum=0.9), rho))
    np.testing.assert_allclose([*ours["a"], ours["b"]], theta, rtol=1e-5)


def test_without_an_ascent_it_is_its_base_and_a_gradient_of_zero_is_no_division():
    for ours, plain in zip(
        jax.tree.leaves(run(optim.sam(optax.adam(0.1), 0.0))), jax.tree.leaves(run(optax.adam(0.1))), strict=True
    ):
        np.testing.assert_array_equal(ours, plain)
    still = run(optim.sam(optax.sgd(0.1)), grad_fn=lambda params: jax.tree.map(lambda p: 0 * p, params))
    assert still["a"].tolist() == START["a"].tolist() and still["b"] == START["b"]


def test_its_base_is_given_every_extra_argument_or_none():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    for base in (optax.GradientTransformationExtraArgs, optax.GradientTransformation):
        tx = optim.sam(base(lambda params: (), update))
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2), grad_fn=lambda p: p, value=3.0)
        assert set(seen) == ({"grad_fn", "value"} if base is optax.GradientTransformationExtraArgs else set())
        seen.clear()


def test_what_it_refuses():
    tx = optim.sam(optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"expects grad_fn among the extra arguments, got none: call update\(grads"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))
    with pytest.raises(ValueError, match="sam expects params, got none"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), grad_fn=lambda p: p)
    with pytest.raises(ValueError, match="rho must be 0 or above, got -1"):
        optim.sam(optax.sgd(0.1), -1)


def first_step(learner):
    """Parameters before and after a step."""
    data, state = core.to_device(learner.stream), core.start(learner)
    after, _ = jax.jit(learner.step)(state, data, 0, 0)
    return state.params, after.params


def linear(method, optimizer):
    return core.make_learner(
        core.from_linen(models.MLP(6, hidden=())), method, optimizer, testing.standard_stream(), batch_size=8
    )


def slope_of_the_first_batch():
    """The gradient of softmax regression on it, by hand."""

    def init(rng, params, ctx):
        return {name: jnp.zeros(field.shape, field.dtype) for name, field in ctx.spec.batch.items()}

    spy = core.Method("spy", init=init, update=lambda s, ts, ctx: (dict(ctx.incoming), ts))
    learner = linear(spy, optax.sgd(0.5))
    state, _ = jax.jit(learner.step)(core.start(learner), core.to_device(learner.stream), 0, 0)
    seen = jax.tree.map(np.asarray, state.method_state["spy"])
    x = np.float64(seen["inputs"])

    def slope(kernel, bias):
        logits = x @ kernel + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        wrong = (p - np.eye(6)[seen["labels"]]) * seen["weights"][:, None] / seen["weights"].sum()
        return x.T @ wrong, wrong.sum(0)

    return slope


def test_in_a_learner_it_climbs_the_loss_of_the_step_and_of_the_methods():
    slope, rho, lam = slope_of_the_first_batch(), 0.4, 2.0
    shrink = core.Method("shrink", loss=lambda s, p, ctx: (lam / 2 * optax.tree.norm(p, squared=True), {}))
    before, after = first_step(linear(shrink, optim.sam(optax.sgd(0.5), rho)))
    kernel, bias = (np.float64(before["head"][k]) for k in ("kernel", "bias"))
    g = [s + lam * p for s, p in zip(slope(kernel, bias), (kernel, bias), strict=True)]
    length = np.sqrt(sum(np.sum(part**2) for part in g))
    up = [p + rho * part / length for p, part in zip((kernel, bias), g, strict=True)]
    there = [s + lam * p for s, p in zip(slope(*up), up, strict=True)]
    np.testing.assert_allclose(after["head"]["kernel"], kernel - 0.5 * there[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["head"]["bias"], bias - 0.5 * there[1], rtol=1e-4, atol=1e-6)


def test_in_a_learner_inside_of_a_partition_only_its_group_climbs():
    slope, rho = slope_of_the_first_batch(), 0.4
    groups = {"ours": optim.sam(optax.sgd(0.5), rho), "still": optax.set_to_zero()}
    tx = optax.partition(groups, {"head": {"kernel": "ours", "bias": "still"}})
    before, after = first_step(linear(core.identity(), tx))
    kernel, bias = (np.float64(before["head"][k]) for k in ("kernel", "bias"))
    g = slope(kernel, bias)[0]
    there = slope(kernel + rho * g / np.sqrt(np.sum(g**2)), bias)[0]
    np.testing.assert_allclose(after["head"]["kernel"], kernel - 0.5 * there, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(after["head"]["bias"], bias)


def test_a_run_without_an_ascent_is_that_of_the_base():
    """BatchNorm and the edges of experiences included."""
    ours, plain = (
        short_run(core.identity(), optimizer=tx) for tx in (optim.sam(optax.adamw(3e-3), 0.0), optax.adamw(3e-3))
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
