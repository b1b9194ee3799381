"""The schedule against its double sum, the recorded norms, and the wrapper against SGD with a schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import optim


def values_of(norms, peak=1.0, **options):
    schedule = optim.refined_linear_decay(norms, peak, **options)
    return np.asarray(jax.vmap(schedule)(jnp.arange(len(norms))), np.float64)


def by_hand(norms, power, fraction):
    """The definition, one window and one sum after the other."""
    num = len(norms)
    half = int(fraction * num) // 2
    weights = []
    for t in range(num):
        window = []
        for s in range(t - half, t + half + 1):
            mirrored = 2 * (num - 1) - s if s > num - 1 else s
            window.append(norms[max(mirrored, 0)])
        weights.append(sorted(window)[half] ** -power)
    rates = [weights[t] * sum(weights[p] for p in range(t + 1, num)) for t in range(num)]
    return np.array(rates) / max(rates)


@pytest.mark.parametrize(("power", "fraction"), [(2.0, 0.1), (1.0, 0.1), (2.0, 0.0), (1.0, 1.0)])
def test_cumulative_sums_are_the_double_sum(power, fraction):
    norms = np.exp(np.random.default_rng(0).normal(size=63))
    with jax.enable_x64(True):
        ours = values_of(norms, 0.3, power=power, filter_fraction=fraction)
    np.testing.assert_allclose(ours, 0.3 * by_hand(norms, power, fraction), rtol=0, atol=1e-10)


def test_equal_norms_give_linear_decay_that_ends_at_zero():
    ours = values_of(np.full(50, 3.7), 0.2)
    t = np.arange(1, 51)
    np.testing.assert_allclose(ours / ours[0], ((50 - t) / 50) / (49 / 50), rtol=1e-6)
    np.testing.assert_allclose(ours, jax.vmap(optax.linear_schedule(0.2, 0.0, 49))(jnp.arange(50)), atol=1e-7)
    assert ours[0] == np.float32(0.2) and ours[-1] == 0
    assert optim.refined_linear_decay(np.ones(50), 0.2)(jnp.int32(70)) == 0


def test_the_scale_of_the_norms_does_not_matter_and_outliers_are_smoothed_away():
    norms = np.exp(np.random.default_rng(1).normal(size=40))
    for scale in (1e-30, 1e30):
        np.testing.assert_allclose(values_of(scale * norms), values_of(norms), rtol=1e-6)
    smooth = np.linspace(3.0, 1.0, 40)
    spiked = np.where(np.arange(40) == 20, 1e4, smooth)
    assert np.abs(values_of(spiked) - values_of(smooth)).max() < 0.1
    assert np.abs(values_of(spiked, filter_fraction=0.0) - values_of(smooth)).max() > 0.5


def test_large_norms_in_the_beginning_are_a_warm_up():
    ours = values_of(np.concatenate([np.full(30, 10.0), np.ones(70)]))
    assert ours.argmax() >= 30 and ours[0] < 0.05 and np.all(np.diff(ours[40:]) < 0)


@pytest.mark.parametrize("ord", [1, 2])
def test_norms_are_recorded_in_the_compiled_loop(ord):
    tx = optax.chain(optim.record_gradient_norms(3, ord=ord), optax.sgd(0.1))
    grads = {"a": np.float32([[3.0, -4.0], [0.0, 1.0], [6.0, 8.0], [5.0, 5.0]]), "b": jnp.ones(4, jnp.bfloat16)}

    def step(state, grad):
        updates, state = tx.update(grad, state)
        return state, updates

    state, updates = jax.jit(lambda g: jax.lax.scan(step, tx.init(jax.tree.map(lambda x: x[0], g)), g))(grads)
    expected = [8.0, 2.0, 15.0] if ord == 1 else np.sqrt([26.0, 2.0, 101.0])
    np.testing.assert_allclose(optax.tree.get(state, "norms"), expected, rtol=1e-6)
    np.testing.assert_allclose(updates["a"], -0.1 * grads["a"], rtol=1e-6)


def trajectory(tx, steps=12):
    """Points of a noisy quadratic."""
    noise = np.float32(np.random.default_rng(2).normal(size=(steps, 3)))

    def step(carry, noise):
        params, state = carry
        updates, state = tx.update(jnp.float32([1.0, 2.0, 0.1]) * params + noise, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    start = jnp.float32([1.0, -2.0, 3.0])
    return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), noise)[1])(start)


def test_the_last_iterate_of_sgd_is_sgd_with_linear_decay():
    ours = trajectory(optim.last_iterate(optax.sgd(0.3), np.ones(12)))
    plain = trajectory(optax.sgd(optax.linear_schedule(0.3 * 11 / 12, 0.0, 11)))
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-6)


def test_the_last_iterate_with_inverse_squares_is_refined_linear_decay():
    norms = np.exp(np.random.default_rng(3).normal(size=12))
    weights = norms**-2 / np.mean(norms**-2)
    rates = 0.1 * weights * (weights.sum() - weights.cumsum()) / weights.sum()
    refined = optim.refined_linear_decay(norms, rates.max(), filter_fraction=0.0)
    ours = trajectory(optim.last_iterate(optax.sgd(0.1), weights))
    np.testing.assert_allclose(ours, trajectory(optax.sgd(refined)), rtol=0, atol=1e-6)


def test_the_wrapped_optimizer_sees_its_own_iterate_and_every_extra_argument():
    seen = {}

    def update(updates, state, params, **extra):
        seen.update(params=params, **extra)
        return jnp.full(2, 10.0), state

    base = optax.GradientTransformationExtraArgs(lambda params: (), update)
    tx = optim.last_iterate(base, [1.0, 3.0])
    state = tx.init(jnp.zeros(2))
    first, state = tx.update(jnp.ones(2), state, jnp.zeros(2), value=1.0)
    second, state = tx.update(jnp.ones(2), state, first, value=2.0)
    assert seen["params"].tolist() == [10.0, 10.0] and seen["value"] == 2.0
    assert first.tolist() == [7.5, 7.5] and second.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: optim.refined_linear_decay([1.0], 0.1), r"at least 2 steps, got shape \(1,\)"),
        (lambda: optim.refined_linear_decay(np.ones((2, 2)), 0.1), r"each of at least 2 steps, got shape \(2, 2\)"),
        (lambda: optim.refined_linear_decay([1.0, 0.0], 0.1), "finite and above 0 when smoothed, got 0 to 1"),
        (lambda: optim.refined_linear_decay([1.0, np.nan], 0.1), "finite and above 0"),
        (lambda: optim.refined_linear_decay([1.0, 1.0], -0.1), "peak_value must be 0 or above"),
        (lambda: optim.refined_linear_decay([1.0, 1.0], 0.1, power=0.0), "power must be above 0"),
        (lambda: optim.refined_linear_decay([1.0, 1.0], 0.1, filter_fraction=2.0), "filter_fraction must be between"),
        (lambda: optim.record_gradient_norms(0), "num_steps expects a whole number of at least 1, got 0"),
        (lambda: optim.record_gradient_norms(3, ord=3), "ord must be one of 1, 2, got 3"),
        (lambda: optim.last_iterate(optax.sgd(0.1), [0.0, 0.0]), "not all of them 0"),
        (lambda: optim.last_iterate(optax.sgd(0.1), 1.0), r"got shape \(\)"),
        (lambda: optim.last_iterate(optax.sgd(0.1), [np.inf, 1.0]), "expects finite numbers"),
        (lambda: optim.last_iterate(optax.sgd(0.1), [1.0, -1.0]), "weights must be 0 or above"),
    ],
)
def test_what_they_refuse(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
