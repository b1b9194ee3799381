"""HyperInterval: worst case and penalty against interval arithmetic in numpy, and boxes that are kept."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core
from tests.masked import STREAM, Whole
from tests.rehearsed import MODEL, answers, learner_of, log_softmax, rows_of, spy

EPS = 0.4


@functools.cache
def whole():
    method = continual.hyperinterval(3, beta=0.5, eps=EPS, kappa=0.3, dim=3, hidden=(4,))
    return Whole(core.chain(method, spy(8)), model=MODEL)


@functools.cache
def third():
    """The third experience as it begins, after three of its steps, and after the fourth."""
    begun = whole().begun(whole().states[2], 2)
    before = whole().chunk(begun, 2, 0, 3)
    return begun, before, whole().chunk(before, 2, 3, 1)


def loss(state, **changes):
    """That of the fourth step with other numbers in the method's state."""
    own = state.method_state["hyperinterval"]._replace(**changes)
    return whole().loss(state._replace(method_state=state.method_state | {"hyperinterval": own}), 2, 3)


def product(x, w):
    """Boxes as (centre, radius)."""
    return x[0] @ w[0], np.abs(x[0]) @ w[1] + x[1] @ (np.abs(w[0]) + w[1])


def relu(x):
    low, high = np.maximum(x[0] - x[1], 0), np.maximum(x[0] + x[1], 0)
    return (low + high) / 2, (high - low) / 2


def networks(params, task, eps=EPS):
    """Centre and radius of each weight of a task's box."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    side = np.exp(p["embeddings"]["radius"][task])
    x = p["embeddings"]["center"][task], eps * side / side.sum()
    for layer in p["layers"]:
        x = relu((x[0] @ layer["kernel"] + layer["bias"], x[1] @ np.abs(layer["kernel"])))
    centers = jax.tree.map(lambda start, head: start + np.tensordot(x[0], head, 1), p["start"], p["heads"])
    return centers, jax.tree.map(lambda head: np.tensordot(x[1], np.abs(head), 1), p["heads"])


def test_the_loss_is_that_of_the_centre_and_of_the_worst_case():
    _, before, after = third()
    own = before.method_state["hyperinterval"]
    inputs, labels = rows_of(STREAM, after.method_state["spy"])
    classes = np.asarray(STREAM.origins.classes)[2]
    center, radius = networks(before.params, 2, EPS * float(own.width))
    x = inputs, np.zeros_like(inputs)
    for name in ("dense_0", "head"):
        z = product(x, (center[name]["kernel"], radius[name]["kernel"]))
        z = z[0] + center[name]["bias"], z[1] + radius[name]["bias"]
        x = relu(z)
    picked = np.eye(6, dtype=bool)[labels]
    worst = np.where(picked, z[0] - z[1], z[0] + z[1])
    fit = answers(networks(before.params, 2, 0.0)[0], inputs)[0]

    def mean(logits):
        return -log_softmax(logits[:, classes])[picked[:, classes]].mean()

    np.testing.assert_allclose(float(own.width), min(1, 2 * 3 / whole().learner.spec.steps[2]))
    found = loss(before) - loss(before, kappa=jnp.ones(()))
    np.testing.assert_allclose(found, 0.7 * float(own.width) * (mean(worst) - mean(fit)), rtol=1e-3)
    free = loss(before, kappa=jnp.ones(()), held=own.held._replace(beta=jnp.zeros(())))
    np.testing.assert_allclose(free, mean(fit), rtol=1e-4)


def test_ends_and_centres_of_earlier_networks_are_held():
    begun, before, _ = third()
    own = before.method_state["hyperinterval"]
    found = loss(before) - loss(before, held=own.held._replace(beta=jnp.zeros(())))

    def ends(params, task):
        x, (center, radius) = networks(params, task, 0.0)[0], networks(params, task)
        low, high = (jax.tree.map(lambda c, r, s=s: c + s * r, center, radius) for s in (-1, 1))
        return low, x, high

    expected = 0.0
    for task in range(2):
        pair = ends(before.params, task), ends(begun.params, task)
        expected += sum(jax.tree.leaves(jax.tree.map(lambda a, b: np.square(a - b).sum(), *pair)))
    expected *= 0.5 / 3 / 2
    assert expected > 1e-5
    np.testing.assert_allclose(found, expected, rtol=3e-3)


def test_a_box_of_no_width_is_its_centre():
    _, before, _ = third()
    frozen = before.frozen | {"fixed": {"eps": jnp.zeros(())}}
    point = before._replace(frozen=frozen)
    np.testing.assert_allclose(loss(point, kappa=jnp.zeros(())), loss(point, kappa=jnp.ones(())), rtol=1e-6)


def test_a_box_is_moved_by_its_own_task_alone():
    for name in ("center", "radius"):
        rows = np.stack([state.params["embeddings"][name] for state in whole().states])
        for t in range(3):
            assert np.any(rows[t + 1, t] != rows[t, t])
            others = np.arange(3) != t
            np.testing.assert_array_equal(rows[t + 1, others], rows[t, others])


def test_what_it_refuses():
    for options, match in (
        ({"num_tasks": 0}, "num_tasks expects a whole number of at least 1, got 0"),
        ({"hidden": (0,)}, "Each width in hidden expects a whole number of at least 1, got 0"),
        ({"dim": 0}, "dim expects a whole number of at least 1, got 0"),
        ({"beta": -1.0}, "beta must be 0 or above, got -1.0"),
        ({"eps": -1.0}, "eps must be 0 or above, got -1.0"),
        ({"kappa": 1.5}, "kappa must be between 0 and 1, got 1.5"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.hyperinterval(**{"num_tasks": 3, **options})
    with pytest.raises(ValueError, match="hyperinterval has embeddings for 2 tasks, and the stream has 3 experiences"):
        core.start(learner_of(continual.hyperinterval(2), stream=STREAM))
    net = core.from_linen(nn.Sequential([nn.Dense(8), nn.LayerNorm(), nn.Dense(6)]))
    normed = learner_of(continual.hyperinterval(3), model=net, stream=STREAM)
    state = jax.eval_shape(normed.init, jax.random.key(0))
    with pytest.raises(ValueError, match="interval_bounds knows no bounds of "):
        jax.eval_shape(normed.step, state, core.to_device(STREAM), 0, 0)
