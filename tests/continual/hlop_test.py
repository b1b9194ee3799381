"""HLOP against Oja's rule in numpy, the subspace that it finds, and the promise: what old inputs see does not move."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, streams, testing
from ctrain_jax.continual.optimization._hlop import oja
from ctrain_jax.ops import permute_index
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


class Patches(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(2, (2, 2), padding="VALID", name="conv")(x)
        return nn.Dense(6, name="head")(x.reshape(x.shape[0], -1))


def test_an_experience_as_in_numpy_by_patches_in_random_order_without_padding():
    x = np.random.default_rng(0).normal(size=(6, 3, 3, 1)).astype(np.float32)
    model = core.from_linen(Patches())
    variables = model.init(jax.random.key(0), x)
    batches = [([0, 1, 2, 3], [1.0, 1.0, 1.0, 1.0]), ([4, 5, 0, 1], [1.0, 1.0, 0.0, 0.0])]

    def scan(function, carry):
        for b, (at, real) in enumerate(batches):
            carry = function(carry, {"position": jnp.array(at), "weights": jnp.array(real)}, b)
        return carry

    def after(index, method, state=None):
        ctx = SimpleNamespace(
            rng=jax.random.key(index),
            spec=SimpleNamespace(num_experiences=2, batch={"inputs": x}),
            experience=SimpleNamespace(index=index, size=6, rows=np.arange(6), origin=np.zeros(6, np.int32)),
            fetch=lambda record: {"inputs": jnp.asarray(x)[record["row"]], "task": None},
            forward=lambda params, inputs, task: model.apply(variables._replace(params=params), inputs),
            scan=scan,
        )
        state = method.init(None, variables.params, ctx) if state is None else state
        return method.end(state, SimpleNamespace(params=variables.params), ctx)[0]

    still = continual.hlop(2, lr=1e-9)
    first = after(0, still)
    rows = np.float64(first.bases["conv"]["kernel"])[:, :2]
    patches = np.stack([x[:, i : i + 2, j : j + 2].reshape(6, 4) for i in (0, 1) for j in (0, 1)], axis=1)
    order, speed = np.asarray(permute_index(jax.random.key(0), jnp.arange(6), 6)), 0.0
    assert (order[:4] != np.arange(4)).any()
    for some in (order[:4], order[4:]):
        inputs = np.float64(patches[some].reshape(-1, 4))
        for _ in range(5):
            y = inputs @ rows
            speed = 0.9 * speed + 0.1 * (inputs - y @ rows.T).T @ y / len(inputs)
            rows = rows + 0.2 * speed
    found = after(0, continual.hlop(2, lr=0.2)).bases["conv"]["kernel"]
    np.testing.assert_allclose(found[:, :2], rows, atol=1e-5)
    both = np.float64(after(1, still, first).bases["conv"]["kernel"])
    np.testing.assert_allclose(both.T @ both, np.eye(4), atol=1e-5)


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


class Inside(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(6, name="head")(nn.remat(nn.Dense)(12, name="inner")(x))


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
    for method in (continual.hlop(), continual.gpm()):
        with pytest.raises(
            ValueError, match=f"{method.name} protects.*outside of nn.remat and nn.scan, got inner.kernel"
        ):
            core.start(short_learner(method, model=core.from_linen(Inside())))
