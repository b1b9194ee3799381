"""G-ACIL against joint ridge regression, and against the recursion of the paper, both in float64 by numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, streams, testing

WIDTH, GAMMA = 40, 1.0


def blobs():
    """Six classes of unequal sizes."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(6), [30, 25, 20, 35, 10, 24]))
    inputs = (rng.normal(size=(6, 5))[labels] + rng.normal(size=(len(labels), 5))).astype(np.float32)
    return streams.arrays(inputs, labels, inputs, labels)


SOURCE = blobs()


def flat_model(dtype=jnp.float32):
    """Features are the inputs; one parameter that matters to nothing."""

    def apply(variables, inputs, *, train=False, rng=None, task=None):
        x = inputs.astype(dtype)
        return core.Outputs(jnp.zeros((x.shape[0], 6), dtype) + variables.params["w"], x), variables.model_state

    return core.Model(lambda rng, inputs: core.Variables({"w": jnp.zeros((), dtype)}), apply)


def mixed():
    """Two experiences that both hold rows of every class."""
    stream = streams.joint(streams.class_incremental(SOURCE, 3))
    rows = np.random.default_rng(1).permutation(144).astype(np.int32).reshape(2, 72)
    every = np.ones((2, 6), bool)
    count = np.arange(2, dtype=np.int32)
    train = core.Experience(count, rows, np.zeros_like(rows), np.full(2, 72, np.int32), every, every, 0 * count)
    return stream._replace(experiences={**stream.experiences, "train": train})


STREAMS = {
    "classes in order": lambda: streams.class_incremental(SOURCE, 3),
    "another order": lambda: streams.class_incremental(SOURCE, 3, seed=4),
    "unequal": lambda: streams.class_incremental(SOURCE, 4),
    "mixed": mixed,
    "at once": lambda: streams.joint(streams.class_incremental(SOURCE, 3)),
}


def run(stream, dtype=jnp.float32, batch_size=16):
    """The state of the method after a stream."""
    method = continual.gacil(WIDTH, gamma=GAMMA)
    learner = core.make_learner(flat_model(dtype), method, optax.sgd(1.0), stream, batch_size=batch_size, steps=1)
    data, state, end = core.to_device(stream), core.start(learner), jax.jit(learner.end)
    # All that it learns it learns there.
    for t in range(learner.spec.num_experiences):
        state = end(state, data, t)
    return state.method_state["gacil"]


def expanded(expansion, rows=slice(None)):
    """Random features of some rows in float64, and their one-hot labels."""
    x = SOURCE.train["inputs"][rows].astype(np.float64)
    return np.maximum(x @ np.asarray(expansion, np.float64), 0), np.eye(6)[SOURCE.train["labels"][rows]]


def ridge(hidden, targets):
    return np.linalg.solve(hidden.T @ hidden + GAMMA * np.eye(WIDTH), hidden.T @ targets)


def recursive(stream, expansion, batch):
    """R and W of the paper, batch after batch: `R - R H'(I + H R H')^-1 H R`, `W + R H'(Y - H W)`."""
    r, w = np.eye(WIDTH) / GAMMA, np.zeros((WIDTH, 6))
    train = stream.experiences["train"]
    for t in range(len(train.size)):
        rows = train.rows[t][: train.size[t]]
        for at in range(0, len(rows), batch):
            h, y = expanded(expansion, rows[at : at + batch])
            r = r - r @ h.T @ np.linalg.solve(np.eye(len(h)) + h @ r @ h.T, h @ r)
            w = w + r @ h.T @ (y - h @ w)
    return w


@pytest.mark.parametrize("name", STREAMS)
def test_the_head_is_the_joint_one_whatever_the_order_and_the_mixture(name):
    state = run(STREAMS[name]())
    hidden, targets = expanded(state.expansion)
    expected = ridge(hidden, targets)
    # A sum of n rounded products is off by up to n eps of its terms, and solving multiplies by the condition number.
    condition = np.linalg.cond(hidden.T @ hidden + GAMMA * np.eye(WIDTH))
    bound = condition * np.sqrt(len(hidden)) * np.finfo(np.float32).eps
    assert bound < 0.1
    assert np.linalg.norm(state.head - expected) <= bound * np.linalg.norm(expected)
    assert state.counts.tolist() == np.bincount(SOURCE.train["labels"]).tolist()


@pytest.mark.parametrize("name, batch", [("mixed", 7), ("unequal", 1)])
def test_in_float64_it_is_the_recursion_of_the_paper(name, batch):
    with jax.enable_x64(True):
        state = run(STREAMS[name](), jnp.float64)
    assert state.head.dtype == np.float64
    np.testing.assert_allclose(state.head, recursive(STREAMS[name](), state.expansion, batch), atol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 7, 144])
def test_the_batch_size_of_the_steps_changes_nothing(batch_size):
    stream = STREAMS["unequal"]()
    np.testing.assert_array_equal(run(stream, batch_size=batch_size).head, run(stream).head)


def test_columns_of_classes_never_seen_are_zero_and_never_answered():
    stream = streams.class_incremental(SOURCE, 3)
    learner = core.make_learner(flat_model(), continual.gacil(WIDTH, gamma=GAMMA), optax.sgd(1.0), stream)
    data = core.to_device(stream)
    state = core.run_experience(learner, core.start(learner), data, 0)
    kept = state.method_state["gacil"]
    assert not np.any(kept.head[:, 2:]) and np.all(np.any(np.asarray(kept.head[:, :2]) != 0, axis=0))
    batch = {"inputs": jnp.asarray(SOURCE.test["inputs"]), "weights": jnp.ones(144)}
    logits = learner.predict(state, data, 0, batch).logits
    assert set(logits.argmax(-1).tolist()) == {0, 1}
    rows = np.flatnonzero(SOURCE.train["labels"] < 2)
    hidden, targets = expanded(kept.expansion, rows)
    np.testing.assert_allclose(logits[:, :2], (expanded(kept.expansion)[0] @ ridge(hidden, targets))[:, :2], atol=1e-3)


@pytest.mark.parametrize("train", [False, True])
def test_the_network_does_not_move_unless_it_is_trained(train):
    """BatchNorm's statistics included."""
    method = continual.gacil(16, train=train)
    learner = core.make_learner(testing.standard_model(), method, optax.adam(1e-2), testing.standard_stream())
    before = core.start(learner)
    after, _ = jax.jit(learner.step)(before, core.to_device(learner.stream), 0, 0)
    for a, b in zip(jax.tree.leaves(before[1:3]), jax.tree.leaves(after[1:3]), strict=True):
        assert np.array_equal(a, b) is not train


def test_what_it_refuses():
    for arguments, match in (
        ({"width": 0}, "width expects a whole number of at least 1, got 0"),
        ({"gamma": 0.0}, "gamma must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.gacil(**arguments)
