"""CheckFree: the repair against numpy, the rest of training against itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import core, fault
from ctrain_jax.fault._checkfree import _names
from tests.conformance.rows import STAGES
from tests.short import short_learner, short_run

NAMES = [f"dense_{k}" for k in range(4)]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_equal_weights_give_the_arithmetic_mean_and_the_others_stay():
    stacked = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    given = stacked.copy()
    given[2] = np.nan  # what was lost is not read
    got = jax.jit(fault.neighbour_recover)({"w": given}, jnp.int32(2), jnp.full(5, 0.7))["w"]
    np.testing.assert_array_equal(got[2], (stacked[1] + stacked[3]) / 2)
    np.testing.assert_array_equal(np.delete(got, 2, 0), np.delete(stacked, 2, 0))


def test_weights_are_norms_plus_a_little_and_an_end_is_a_copy():
    stacked = np.random.default_rng(1).normal(size=(4, 6))
    norms = np.array([3.0, 9.0, 1e-4, 5.0])
    got = fault.neighbour_recover(jnp.float32(stacked), 1, jnp.float32(norms))
    share = 3.0001 / (3.0001 + 2e-4)
    np.testing.assert_allclose(got[1], share * stacked[0] + (1 - share) * stacked[2], rtol=1e-5, atol=1e-6)
    # Without any gradient the weights are equal, not 0 / 0.
    got = fault.neighbour_recover(jnp.float32(stacked), 2, jnp.zeros(4))
    np.testing.assert_allclose(got[2], (stacked[1] + stacked[3]) / 2, rtol=1e-6)
    for lost, source in ((0, 1), (3, 2)):
        got = fault.neighbour_recover(jnp.float32(stacked), lost, jnp.float32(norms))
        np.testing.assert_array_equal(got[lost], np.float32(stacked[source]))
    with pytest.raises(ValueError, match="a weight for each, got weights of shape \\(3,\\)"):
        fault.neighbour_recover(jnp.ones((4, 6)), 1, jnp.ones(3))


def test_even_micro_batches_go_straight_and_odd_ones_swap_the_ends():
    orders = np.asarray(jax.vmap(lambda micro: fault.swap_order(7, micro))(jnp.arange(6)))
    np.testing.assert_array_equal(orders[::2], [range(7)] * 3)
    np.testing.assert_array_equal(orders[1::2], [[1, 0, 2, 3, 4, 6, 5]] * 3)
    with pytest.raises(ValueError, match="at least 4, got 3"):
        fault.swap_order(3, 0)


@functools.cache
def compiled(recover="average"):
    method = core.chain(STAGES, fault.checkfree(0.0, stages="dense_", recover=recover))
    learner = short_learner(method, optimizer=optax.adam(1e-2), steps=40)
    step, gradient = jax.jit(learner.step), jax.jit(learner.gradient)
    data, zero = core.to_device(learner.stream), jnp.int32(0)
    return learner, lambda ts, i: step(ts, data, zero, i)[0], lambda ts, i: gradient(ts, data, zero, i)[1]


def failing(ts, rate):
    own = ts.method_state["checkfree"]._replace(failure_rate=jnp.float32(rate))
    return ts._replace(method_state={**ts.method_state, "checkfree": own})


def before_and_after(recover="average"):
    """A state after 6 steps, and the next one without and with a failure, and the stage that it hit."""
    learner, step, _ = compiled(recover)
    ts = learner.init(jax.random.key(3))
    for i in range(6):
        ts = step(ts, i)
    plain, hit = step(ts, 6), step(failing(ts, 1.0), 6)
    (lost,) = np.flatnonzero(np.asarray(hit.method_state["checkfree"].scale) != 1)
    return ts, plain, hit, int(lost)


def test_no_failure_is_plain_training_to_the_bit():
    def end(*methods):
        return short_run(core.chain(STAGES, *methods), experiences=1)

    # Optimised: only there does a rate times 1 end in other bits.
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        plain = end()
        same(plain.params, end(fault.checkfree(0.0, stages="dense_", lr_scale=7.0)).params)
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    once = end(fault.checkfree(0.2, stages="dense_"))
    assert not np.array_equal(plain.params["dense_0"]["kernel"], once.params["dense_0"]["kernel"])


def test_a_failure_replaces_one_stage_and_its_optimizer():
    _, _, gradient = compiled()
    ts, plain, hit, lost = before_and_after()
    grads = gradient(ts, 6)
    norms = [np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in jax.tree.leaves(grads[n]))) + 1e-4 for n in NAMES]
    a, b = norms[lost - 1], norms[lost + 1]
    for leaf in ("kernel", "bias"):
        low, high = (np.float64(plain.params[NAMES[k]][leaf]) for k in (lost - 1, lost + 1))
        np.testing.assert_allclose(hit.params[NAMES[lost]][leaf], (a * low + b * high) / (a + b), rtol=1e-5, atol=1e-7)
    rest = [name for name in plain.params if name != NAMES[lost]]
    same(*({name: s.params[name] for name in rest} for s in (plain, hit)))
    inner = [s.opt_state.inner_states for s in (plain, hit)]
    same(*({name: x for name, x in states.items() if name != NAMES[lost]} for states in inner))
    assert {float(np.abs(x).max()) for x in jax.tree.leaves(inner[1][NAMES[lost]])} == {0.0}


def test_afterwards_the_stage_is_faster():
    """The first step of a new Adam is its rate along the sign of the gradient: here 1.1 times the rate."""
    _, step, gradient = compiled()
    _, _, hit, lost = before_and_after()
    hit = failing(hit, 0.0)
    after, grads = step(hit, 7), gradient(hit, 7)
    moved, g = (np.asarray(x[NAMES[lost]]["kernel"], np.float64) for x in (after.params, grads))
    moved = moved - np.asarray(hit.params[NAMES[lost]]["kernel"], np.float64)
    assert np.abs(g).max() > 1e-3
    np.testing.assert_allclose(moved, -1.1e-2 * g / (np.abs(g) + 1e-8), rtol=2e-4, atol=1e-6)


def test_interior_stages_alone_are_lost_and_a_second_loss_does_not_compound():
    learner, step, _ = compiled()
    ts = failing(learner.init(jax.random.key(0)), 1.0)
    for i in range(20):
        ts = step(ts, i)
    np.testing.assert_array_equal(ts.method_state["checkfree"].scale, np.float32([1, 1.1, 1.1, 1]))


@pytest.mark.parametrize("recover", ["copy", "random"])
def test_what_it_is_compared_with(recover):
    _, plain, hit, lost = before_and_after(recover)
    made = hit.params[NAMES[lost]]
    if recover == "copy":
        same(made, plain.params[NAMES[lost - 1]])
    else:
        # A new start of the model: flax draws kernels of variance 1 / 12 and leaves biases 0.
        assert float(np.abs(made["bias"]).max()) == 0 and 0.7 < float(np.std(made["kernel"])) * 12**0.5 < 1.3
        assert not any(np.array_equal(made["kernel"], plain.params[name]["kernel"]) for name in NAMES)


def test_stages_are_ordered_by_number_and_must_be_alike():
    params = {f"block_{k}": jnp.zeros(2) for k in (10, 2, 9, 1)} | {"block_out": jnp.zeros(5), "head": jnp.zeros(3)}
    assert _names(params, "block_") == ["block_1", "block_2", "block_9", "block_10"]
    with pytest.raises(ValueError, match="equal shapes, got block_11 unlike block_1"):
        _names(params | {"block_11": jnp.zeros(3)}, "block_")
    with pytest.raises(ValueError, match="at least 3 stages named layer_<number> among the parameters, got"):
        _names(params, "layer_")
    with pytest.raises(ValueError, match="recover must be one of 'average', 'copy', 'random'"):
        fault.checkfree(0.1, recover="mean")
