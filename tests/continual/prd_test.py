"""PRD against loops in numpy: the loss of a step, what it moves, the answers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, testing
from tests.losses.supervised_contrastive_test import by_hand
from tests.rehearsed import spy

MODEL = core.from_linen(models.MLP(6, hidden=(5,), activation=jnp.tanh))
TEMPERATURE = 0.3


@functools.cache
def learning():
    """A learner that sees each row from both sides, and its compiled functions; a spy remembers the incoming rows."""
    method = continual.prd(temperature=TEMPERATURE, augment_fn=lambda rng, x: x[:, ::-1])
    learner = core.make_learner(
        MODEL, core.chain(method, spy(16)), optax.sgd(0.1), testing.standard_stream(), batch_size=8
    )
    return learner, core.to_device(learner.stream), jax.jit(learner.step), jax.jit(learner.begin)


def test_a_network_that_is_its_own_teacher_has_nothing_to_distil_whatever_its_training_passes_do():
    """With statistics of a batch and dropout, at the first step of the second experience."""
    steps = []
    for beta in (0.0, 50.0):
        method = continual.prd(beta, temperature=TEMPERATURE)
        learner = core.make_learner(
            testing.standard_model(), method, optax.sgd(0.1), testing.standard_stream(), batch_size=8
        )
        data = core.to_device(learner.stream)
        steps.append(jax.jit(learner.step)(learner.begin(core.start(learner), data, 1), data, 1, 0)[0].params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *steps)


@functools.cache
def run(beta=3.0, alpha=1.5):
    """The states before and after each of three steps of the second experience, the last one padded, and records."""
    learner, data, step, begin = learning()
    state = core.start(learner)
    own = state.method_state["prd"]._replace(beta=jnp.float32(beta), alpha=jnp.float32(alpha))
    state = state._replace(method_state=state.method_state | {"prd": own})
    for i in range(learner.spec.steps[0]):
        state, _ = step(state, data, 0, i)
    states, records = [begin(state, data, 1)], []
    for i in (0, 1, learner.spec.steps[1] - 1):
        state, record = step(states[-1], data, 1, i)
        states.append(state)
        records.append(record)
    return states, records


def answers(params, inputs):
    """Features, and cosines with the prototypes."""
    z = np.asarray(MODEL.apply(core.Variables(params, {}), inputs)[0].features, np.float64)
    p = np.asarray(params["head"]["kernel"], np.float64)
    return z, z @ p / np.linalg.norm(z, axis=1, keepdims=True) / np.linalg.norm(p, axis=0)


def test_the_loss_of_a_step_by_hand_with_a_second_view_and_padding():
    (learner, data, *_), (states, records) = learning(), run()
    real = []
    for before, after, record in zip(states, states[1:], records, strict=False):
        row, weights = (np.asarray(after.method_state["spy"][name])[:8] for name in ("row", "weights"))
        real.append(int(weights.sum()))
        inputs = learner.stream.source.train["inputs"][row][:, np.asarray(learner.stream.origins.view)[1]]
        inputs, there = np.concatenate([inputs, inputs[:, ::-1]]), np.tile(weights, 2) > 0
        labels = np.tile(learner.stream.source.train["labels"][row], 2)
        z, now = answers(before.params, inputs)
        _, then = answers(states[0].params, inputs)
        contrast = np.sum(by_hand(z, labels, TEMPERATURE, there)) / there.sum()
        pull = np.mean([1 - now[i, labels[i]] for i in range(16) if there[i]])
        moved = []
        for c in (0, 1):
            new, old = (np.exp(x[there, c] / TEMPERATURE) for x in (now, then))
            new, old = new / new.sum(), old / old.sum()
            moved.append(np.sum(old * np.log(old / new)))
        np.testing.assert_allclose(record["loss"], contrast + 1.5 * pull + 3.0 * np.mean(moved), rtol=1e-5)
    assert real[:2] == [8, 8] and real[2] < 8 and np.mean(moved) > 1e-4
    rows = {"inputs": jnp.asarray(inputs), "weights": jnp.ones(16)}
    logits = jax.jit(learner.predict)(states[-1], data, 1, rows).logits
    np.testing.assert_allclose(logits, answers(states[-1].params, inputs)[1], atol=1e-5)


def test_where_nothing_has_moved_the_distillation_has_no_gradient_and_then_old_prototypes_follow():
    (ours, _), (without, _) = run(), run(beta=0.0)
    for a, b in zip(jax.tree.leaves(ours[1].params), jax.tree.leaves(without[1].params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    before, same, moved, ours_last = (np.asarray(s.params["head"]["kernel"]) for s in ours)
    np.testing.assert_allclose(same[:, :2], before[:, :2], atol=2e-6)
    assert np.abs(moved - same)[:, :2].min() > 1e-5
    np.testing.assert_array_equal(ours_last[:, 4:], before[:, 4:])
    np.testing.assert_array_equal(
        without[0].params["head"]["kernel"][:, :2], without[3].params["head"]["kernel"][:, :2]
    )


def test_features_do_not_feel_that_prototypes_move_towards_them():
    (fixed, _), (moving, _) = run(beta=0.0, alpha=0.0), run(beta=0.0)
    for a, b in zip(*(jax.tree.leaves(states[-1].params["dense_0"]) for states in (fixed, moving)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(
        fixed[-1].params["head"]["kernel"], core.start(learning()[0]).params["head"]["kernel"]
    )


def test_what_it_refuses():
    for arguments, match in (
        ({"beta": -1.0}, "beta must be 0 or above"),
        ({"alpha": -1.0}, "alpha must be 0 or above"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.prd(**arguments)
