"""CLR: channels against scipy and against numpy's gradients, what a task owns, and answers that stay to the bit."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.signal

from ctrain_jax import continual, core
from ctrain_jax.continual.architecture import _clr
from tests.convolved import convolved
from tests.masked import STREAM, Whole, asked
from tests.rehearsed import MODEL, learner_of, rows_of, spy


def test_a_channel_is_correlated_with_its_own_kernel():
    rng = np.random.default_rng(0)
    for size in (1, 3, 5):
        x, kernel = rng.normal(size=(2, 5, 4, 3)), rng.normal(size=(size, size, 3))
        found = _clr.depthwise(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
        for b in range(2):
            for c in range(3):
                expected = scipy.signal.correlate2d(x[b, ..., c], kernel[..., c], mode="same")
                np.testing.assert_allclose(found[b, ..., c], expected, atol=1e-5)


def test_a_step_of_sgd_moves_the_kernels_and_the_head_by_their_gradient_alone():
    """By differences in numpy of the loss, with each kernel written as nine sums."""
    learner = learner_of(continual.clr(3), spy(8), model=convolved(), stream=STREAM, optimizer=optax.sgd(0.5))
    data, start = core.to_device(STREAM), core.start(learner)
    begun = jax.jit(learner.begin)(start, data, 0)
    after, _ = jax.jit(learner.step)(begun, data, 0, 0)
    inputs, labels = rows_of(STREAM, after.method_state["spy"])
    network = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), begun.frozen["network"])
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), begun.params)

    def follow(x, kernel):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(padded[:, i : i + 4, j : j + 3] * kernel[i, j] for i in range(3) for j in range(3))

    def convolve(x, kernel, low):
        padded = np.pad(x, ((0, 0), (low, 1), (low, 1), (0, 0)))
        taps = [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
        return sum(padded[:, i : i + 4, j : j + 3] @ kernel[i, j] for i, j in taps)

    def loss(p):
        x = convolve(inputs.reshape(-1, 4, 3, 1), network["first"]["kernel"], 1) + network["first"]["bias"]
        x = convolve(np.tanh(follow(x, p["kernels"]["first"])), network["Conv_0"]["kernel"], 0)
        x = follow(x, p["kernels"]["Conv_0"]).mean((1, 2))
        odds = np.exp(x @ p["own"]["head.kernel"] + p["own"]["head.bias"])[:, :2]
        return -np.log(odds[np.arange(8), labels] / odds.sum(1)).mean()

    def slope(path, leaf):
        def at(index, by):
            moved = leaf.copy()
            moved[index] += by
            return loss(jax.tree_util.tree_map_with_path(lambda p, x: moved if p == path else x, params))

        return np.array([at(i, 1e-6) - at(i, -1e-6) for i in np.ndindex(leaf.shape)]).reshape(leaf.shape) / 2e-6

    expected = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf - 0.5 * slope(path, leaf), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, expected)
    assert {name: leaf.shape for name, leaf in after.params["kernels"].items()} == {
        "first": (3, 3, 3),
        "Conv_0": (3, 3, 4),
    }


@functools.cache
def whole():
    return Whole(continual.clr(3), model=convolved(norm=True))


def test_a_task_that_has_not_learned_answers_as_the_network():
    """Whose variables the run is given."""
    model = convolved(norm=True)
    anchor = model.init(jax.random.key(5), asked(0)["inputs"])
    state = core.start(whole().learner, variables=anchor)
    plain = model.apply(anchor, asked(0)["inputs"])[0].logits
    for task in range(3):
        found, kept = whole().answer(state, asked(task)), asked(task)["classes"]
        np.testing.assert_allclose(np.where(kept, found, 0), np.where(kept, plain, 0), atol=1e-6)


def test_later_experiences_change_no_earlier_answer_and_no_parameter_of_the_network():
    answers, states = whole().answers, whole().states
    np.testing.assert_array_equal(answers[2][0], answers[0][0])
    np.testing.assert_array_equal(answers[2][1], answers[1][1])
    assert np.any(answers[1][1] != answers[0][1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states[3].params))
    jax.tree.map(np.testing.assert_array_equal, states[0].frozen["network"], states[3].frozen["network"])


def test_a_task_owns_its_kernels_its_normalisation_and_its_head():
    state = whole().states[3]
    assert set(state.params["own"]) == {"BatchNorm_0.bias", "BatchNorm_0.scale", "head.bias", "head.kernel"}
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 9 * (3 + 4) + 2 * 3 + (4 * 6 + 6)
    for t in range(3):
        kept = jax.tree.map(lambda bank, t=t: bank[t], state.frozen["tasks"])
        jax.tree.map(np.testing.assert_array_equal, kept, whole().states[t + 1].params)
    mean = state.model_state["batch_stats"]["BatchNorm_0"]["mean"]
    assert mean.shape == (3, 3) and len(np.unique(mean, axis=0)) == 3


def test_a_task_that_comes_again_goes_on_and_the_optimizer_starts_anew():
    again = whole().experience(whole().states[3], 0)
    begun = whole().begun(whole().states[3], 0)
    jax.tree.map(np.testing.assert_array_equal, begun.params, whole().states[1].params)
    assert optax.tree.get(begun.opt_state, "count") == 0
    assert np.any(again.params["kernels"]["first"] != begun.params["kernels"]["first"])


@pytest.mark.parametrize(("pointwise", "shape"), [("none", None), ("scale", (1, 1, 4)), ("kernel", (5, 5, 4))])
def test_what_follows_a_pointwise_convolution(pointwise, shape):
    model = continual.clr(2, size=5, pointwise=pointwise).model(convolved(point=True))
    kernels = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 12))).params["kernels"]
    assert kernels["first"].shape == (5, 5, 3)
    assert (kernels["Conv_0"].shape if "Conv_0" in kernels else None) == shape


class Unnamed(nn.Module):
    """A network whose last layer is `Dense_0`."""

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(6)(nn.GroupNorm(1)(nn.Conv(2, (3, 3))(inputs.reshape(-1, 4, 3, 1))).mean((1, 2)))


def test_a_last_layer_of_another_name_is_asked_for():
    model = core.from_linen(Unnamed())
    with pytest.raises(ValueError, match="clr finds no layer head: give own, to find the last of .*Dense_0.kernel"):
        learner_of(continual.clr(3), model=model, stream=STREAM)
    given = continual.clr(3, own=r"^Dense_0").model(model).init(jax.random.key(0), jnp.zeros((1, 12)))
    assert set(given.params["own"]) == {"Dense_0.bias", "Dense_0.kernel"}


def test_what_it_refuses():
    for arguments, match in (
        ({"num_tasks": 0}, "num_tasks expects a whole number of at least 1, got 0"),
        ({"size": 4}, "clr: size expects an odd number, got 4"),
        ({"pointwise": "all"}, "pointwise must be one of 'none', 'scale', 'kernel'"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.clr(**{"num_tasks": 3, **arguments})
    lines = core.from_linen(nn.Sequential([lambda x: x[..., None], nn.Conv(2, (3,)), lambda x: x[..., 0]]))
    for method, model, match in (
        (continual.clr(3), MODEL, "clr finds no convolution of linen"),
        (continual.clr(3), lines, r"clr follows convolutions over \[B, H, W, C\], and layers_1 has a kernel \(3,\)"),
        (
            continual.clr(3, own="nothing"),
            convolved(),
            "clr: own='nothing' finds no parameter: choose from Conv_0.kernel",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            learner_of(method, model=model, stream=STREAM)
    with pytest.raises(ValueError, match="clr has kernels for 2 tasks, and the stream has 3 experiences"):
        core.start(learner_of(continual.clr(2), model=convolved(), stream=STREAM))
    replayed = learner_of(continual.er(20), continual.clr(3), model=convolved(), stream=STREAM)
    state, data = core.start(replayed), core.to_device(STREAM)
    with pytest.raises(ValueError, match="clr learns one task a batch"):
        jax.eval_shape(replayed.step, state, data, 0, 0)
