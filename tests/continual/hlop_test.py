"""HLOP against Oja's rule in numpy, the subspace that it finds, and the promise: what old inputs see does not move."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, streams, testing
from ctrain_jax.continual.optimization._hlop import oja
from tests.short import short_learner


def test_rows_move_as_in_numpy_and_padding_counts_for_nothing():
    rng = np.random.default_rng(0)
    old = np.linalg.qr(rng.normal(size=(7, 2)))[0]
    new, speed, x = rng.normal(size=(7, 3)), np.zeros((7, 3)), 3 * rng.normal(size=(6, 7))
    padded = np.vstack([x, np.zeros((2, 7))])
    found = oja(*(jnp.asarray(a, jnp.float32) for a in (old, new, speed, padded)), 6, 0.05, 0.9, 4)
    clipped = 0
    for _ in range(4):
        y = x @ new
        change = (y.T @ (x - x @ old @ old.T - y @ new.T) / 6).T
        clipped += np.sum(np.abs(change) > 10)
        speed = 0.9 * speed + 0.1 * np.clip(change, -10, 10)
        new = new + 0.05 * speed
    assert clipped > 0
    np.testing.assert_allclose(found[0], new, atol=1e-5)
    np.testing.assert_allclose(found[1], speed, atol=1e-5)


class Line(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(2, name="head")(x)


def flat_blobs(rank, width=12, rows=320):
    """Two classes in two experiences, each in a subspace of its own, askew to the other, and the bases of both."""
    rng = np.random.default_rng(1)
    bases = [np.linalg.qr(rng.normal(size=(width, rank)))[0].T for _ in range(2)]
    labels = np.repeat(np.arange(2), rows)
    inputs = np.concatenate([2 * rng.normal(size=(rows, rank)) @ basis for basis in bases]).astype(np.float32)
    return streams.class_incremental(streams.arrays(inputs, labels, inputs, labels), 2), bases


def test_each_experience_adds_its_subspace_and_old_inputs_see_nothing_of_training():
    stream, subspaces = flat_blobs(3)
    tx = optax.adamw(1e-2, weight_decay=0.1)
    learner = core.make_learner(
        core.from_linen(Line()), continual.hlop(3, lr=0.1, momentum=0.5), tx, stream, batch_size=16, epochs=3
    )
    data, state, states = core.to_device(stream), core.start(learner), []
    for t in range(2):
        state = core.run_experience(learner, state, data, t)
        states.append(jax.tree.map(jnp.array, state))
    for t, after in enumerate(states):
        rows = np.float64(after.method_state["hlop"].bases["head"]["kernel"])
        assert rows.shape == (12, 6) and not rows[:, 3 * t + 3 :].any()
        used = rows[:, : 3 * t + 3]
        np.testing.assert_allclose(used.T @ used, np.eye(3 * t + 3), atol=1e-5)
        known = np.linalg.qr(np.concatenate(subspaces[: t + 1]).T)[0]
        np.testing.assert_allclose(used @ used.T, known @ known.T, atol=1e-5)
    np.testing.assert_array_equal(*(after.method_state["hlop"].bases["head"]["kernel"][:, :3] for after in states))
    first = np.float64(stream.source.train["inputs"][:320])
    answers = [first @ after.params["head"]["kernel"] + after.params["head"]["bias"] for after in states]
    assert np.abs(answers[0] - answers[1]).max() < 1e-5
    assert np.abs(states[0].params["head"]["kernel"] - states[1].params["head"]["kernel"]).max() > 0.1
    assert states[0].params["head"]["bias"].any() and states[0].method_state["hlop"].bases["head"]["bias"] == 1


def test_a_kernel_gets_its_equal_share_of_rows_and_stops_when_it_is_full():
    stream = testing.standard_stream()
    learner = short_learner(continual.hlop(5, train="head"), stream=stream)
    bases = jax.eval_shape(learner.init, jax.random.key(0)).method_state["hlop"].bases
    assert bases["Dense_0"]["kernel"].shape == (12, 12) and bases["Dense_1"]["kernel"].shape == (16, 15)
    assert bases["head"]["kernel"].shape == (0, 0)
    narrow = core.make_learner(
        core.from_linen(Line()), continual.hlop(lr=0.2), optax.sgd(0.1), two_columns(), batch_size=16
    )
    data, state, kept = core.to_device(narrow.stream), core.start(narrow), []
    for t in range(3):
        state = core.run_experience(narrow, state, data, t)
        kept.append(np.array(state.method_state["hlop"].bases["head"]["kernel"]))
    assert kept[0].shape == (2, 2) and not kept[0][:, 1].any()
    np.testing.assert_allclose(kept[1].T @ kept[1], np.eye(2), atol=0.1)
    np.testing.assert_array_equal(kept[1], kept[2])


def two_columns():
    """Three experiences of inputs of two numbers."""
    inputs = np.random.default_rng(0).normal(size=(96, 2)).astype(np.float32)
    return streams.permuted(streams.arrays(*[inputs, np.arange(96) % 2] * 2), 3)


def test_what_it_refuses():
    for arguments, match in (
        ({"rank": 0}, "rank expects a whole number of at least 1, got 0"),
        ({"iterations": 0}, "iterations expects a whole number of at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"momentum": 1.5}, "momentum must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.hlop(**arguments)
    with pytest.raises(ValueError, match="hlop: train='heads' finds no parameter"):
        core.start(short_learner(continual.hlop(train="heads")))
