"""GDumb: what its memory holds, and its training from scratch against a loop in numpy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, ops, testing
from ctrain_jax.continual.replay._gdumb import restarts

SIZE, EPOCHS, RATE, MOMENTUM, BATCH = 13, 3, 0.2, 0.5, 5


@functools.cache
def two_experiences():
    """The learner, its compiled end, and the states before and after the end of two experiences of two steps."""
    method = continual.gdumb(SIZE, epochs=EPOCHS, learning_rate=RATE, momentum=MOMENTUM, batch_size=BATCH)
    learner = core.make_learner(
        learner_model(),
        method,
        optax.adam(1.0),
        testing.standard_stream(),
        batch_size=8,
        steps=2,
    )
    data, chunk, end = core.to_device(learner.stream), jax.jit(learner.chunk), jax.jit(learner.end)
    state, found = core.start(learner), []
    for t in range(2):
        before = chunk(state, data, t, 0, 2)[0]
        found.append((state, before, end(before, data, t)))
        state = found[-1][-1]
    return learner, end, data, found


def test_nothing_is_learned_between():
    learner = core.make_learner(
        testing.standard_model(), continual.gdumb(12, epochs=1), optax.adam(1.0), testing.standard_stream()
    )
    start = core.start(learner)
    after, _ = jax.jit(learner.step)(start, core.to_device(learner.stream), 0, 0)
    for same in ("params", "model_state", "method_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(start, same), getattr(after, same))


def test_the_memory_holds_even_numbers_of_different_rows_of_their_experience():
    learner, _, _, found = two_experiences()
    train, labels = learner.stream.experiences["train"], learner.stream.source.train["labels"]
    for t, expected in enumerate(([6, 7], [3, 3, 3, 4])):
        buffer = found[t][-1].method_state["gdumb"].buffer
        row, experience, label = (np.asarray(buffer.records[name]) for name in ("row", "experience", "labels"))
        np.testing.assert_array_equal(labels[row], label)
        assert sorted(np.bincount(label).tolist()) == expected
        assert len(set(row.tolist())) == SIZE, "each row was offered once"
        assert all(r in train.rows[e][: train.size[e]] for r, e in zip(row, experience, strict=True))


def test_it_trains_from_scratch_as_a_loop_in_numpy_does():
    learner, _, _, found = two_experiences()
    _, before, after = found[1]
    records = {name: np.asarray(leaf) for name, leaf in after.method_state["gdumb"].buffer.records.items()}
    rng = core.tag(core.tag(core.tag(jax.random.fold_in(before.rng, 1), "end"), "gdumb"), "end")
    fresh = learner_model().init(core.tag(rng, "fresh"), jnp.zeros((8, 12))).params["head"]
    weights = {name: np.asarray(leaf, np.float64) for name, leaf in fresh.items()}
    moved, views = dict.fromkeys(weights, 0.0), np.asarray(learner.stream.origins.view)
    for e, rate in enumerate((0.1 * RATE, RATE, RATE)):
        order = ops.permute_index(jax.random.fold_in(core.tag(rng, "train"), e), jnp.arange(SIZE), jnp.int32(SIZE))
        for places in np.split(np.asarray(order), [5, 10]):
            slope = dict.fromkeys(weights, 0.0)
            drawn = (records[name][places] for name in ("row", "experience", "labels"))
            for row, experience, label in zip(*drawn, strict=True):
                x = learner.stream.source.train["inputs"][row].astype(np.float64)[views[experience]]
                exps = np.exp(x @ weights["kernel"] + weights["bias"])
                error = (exps / exps.sum() - np.eye(6)[label]) / len(places)
                slope = {"kernel": slope["kernel"] + np.outer(x, error), "bias": slope["bias"] + error}
            moved = {name: MOMENTUM * moved[name] + slope[name] for name in weights}
            weights = {name: weights[name] - rate * moved[name] for name in weights}
    for name, expected in weights.items():
        np.testing.assert_allclose(after.params["head"][name], expected, rtol=1e-4, atol=1e-5)


def learner_model():
    return core.from_linen(models.MLP(6, hidden=()))


def test_of_what_was_learned_before_nothing_is_left():
    _, end, data, found = two_experiences()
    _, before, after = found[1]
    other = end(before._replace(params=jax.tree.map(lambda p: p + 1.0, before.params)), data, 1)
    jax.tree.map(np.testing.assert_array_equal, after.params, other.params)


def test_the_restarts_are_those_of_a_scheduler_that_is_stepped_once_an_epoch():
    rates, since, period = [0.1, 1.0], 0, 1
    while len(rates) < 20:
        since += 1
        if since == period:
            since, period = 0, 2 * period
        rates.append(0.01 + 0.99 * (1 + math.cos(math.pi * since / period)) / 2)
    np.testing.assert_allclose(restarts(20), rates, rtol=1e-12)


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number of at least 1, got 0"),
        ({"epochs": 0}, "epochs expects a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"momentum": 1.5}, "momentum must be between 0 and 1"),
        ({"schedule": "linear"}, "schedule must be one of 'restarts', 'constant'"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.gdumb(**{"size": 20, "epochs": 1, **arguments})
    learner = core.make_learner(
        learner_model(), continual.gdumb(5, epochs=1), optax.sgd(0.1), testing.standard_stream()
    )
    with pytest.raises(ValueError, match="a slot for each class, got capacity=5 for num_classes=6"):
        jax.eval_shape(learner.init, jax.random.key(0))
