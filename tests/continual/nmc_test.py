"""Nearest class means against means over all rows at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, streams, testing


def blobs():
    """Ten classes of unequal sizes."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(10), np.arange(10, 20)))
    inputs = (rng.normal(size=(10, 6))[labels] + rng.normal(size=(len(labels), 6))).astype(np.float32)
    return streams.arrays(inputs, labels, inputs, labels)


SOURCE = blobs()


@functools.cache
def run(experiences=5, batch_size=16, epochs=1, **options):
    model = core.from_linen(models.MLP(10, hidden=(8,)))
    stream = streams.class_incremental(SOURCE, experiences, seed=experiences)
    learner = core.make_learner(
        model, continual.nmc(**options), optax.adam(1e-2), stream, batch_size=batch_size, epochs=epochs
    )
    return learner, core.run_stream(learner, 0)


def features_of(params, inputs):
    layer = jax.tree.map(lambda p: np.asarray(p, np.float64), params["dense_0"])
    return np.maximum(inputs.astype(np.float64) @ layer["kernel"] + layer["bias"], 0)


def means_at_once(params):
    features = features_of(params, SOURCE.train["inputs"])
    return np.stack([features[SOURCE.train["labels"] == c].mean(0) for c in range(10)])


@pytest.mark.parametrize(
    "experiences, batch_size, epochs", [(10, 16, 1), (5, 16, 1), (1, 16, 1), (5, 1, 1), (5, 145, 1), (5, 16, 3)]
)
def test_means_are_those_of_all_rows_for_any_split_batch_size_and_number_of_epochs(experiences, batch_size, epochs):
    _, result = run(experiences, batch_size, epochs)
    state = result.state.method_state["nmc"]
    assert state.counts.tolist() == (epochs * np.arange(10, 20)).tolist(), "padding is not counted"
    np.testing.assert_allclose(
        state.sums / state.counts[:, None], means_at_once(result.state.params), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_nearest_mean_answers(metric):
    learner, result = run(metric=metric)
    inputs = SOURCE.test["inputs"]
    batch = {"inputs": jnp.asarray(inputs), "weights": jnp.ones(len(inputs))}
    logits = learner.predict(result.state, core.to_device(learner.stream), 4, batch).logits
    features, means = features_of(result.state.params, inputs), means_at_once(result.state.params)
    if metric == "l2":
        expected = -np.square(features[:, None] - means[None]).sum(-1)
    else:
        lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(means, axis=1)
        expected = features @ means.T / np.maximum(lengths, 1e-12)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    by_class = [int(size) for size in learner.stream.experiences["test"].size]
    accuracy = np.sum(np.asarray(result.accuracy[-1]) * by_class) / sum(by_class)
    np.testing.assert_allclose(accuracy, np.mean(expected.argmax(1) == SOURCE.test["labels"]), atol=1e-6)


def test_classes_without_a_row_are_never_answered():
    learner, result = run()
    data = core.to_device(learner.stream)
    state = core.run_experience(learner, core.start(learner), data, 0)
    batch = {"inputs": jnp.asarray(SOURCE.test["inputs"]), "weights": jnp.ones(len(SOURCE.test["labels"]))}
    answered = set(learner.predict(state, data, 0, batch).logits.argmax(-1).tolist())
    assert answered == set(np.flatnonzero(learner.stream.experiences["train"].classes[0]).tolist())


@pytest.mark.parametrize("train", [False, True])
def test_the_network_does_not_move_unless_it_is_trained(train):
    """BatchNorm's statistics included."""
    method = continual.nmc(train=train)
    learner = core.make_learner(testing.standard_model(), method, optax.adam(1e-2), testing.standard_stream())
    before = core.start(learner)
    after, _ = jax.jit(learner.step)(before, core.to_device(learner.stream), 0, 0)
    for a, b in zip(jax.tree.leaves(before[1:3]), jax.tree.leaves(after[1:3]), strict=True):
        assert np.array_equal(a, b) is not train


def test_what_it_refuses():
    with pytest.raises(ValueError, match="fill must be one of"):
        continual.nmc(fill="never")
    with pytest.raises(ValueError, match="metric must be one of"):
        continual.nmc(metric="l1")
    model = core.Model(
        lambda rng, inputs: core.Variables({"w": jnp.zeros(())}),
        lambda v, x, **options: (core.Outputs(jnp.zeros((x.shape[0], 10))), v.model_state),
    )
    with pytest.raises(ValueError, match="nmc needs features"):
        core.make_learner(model, continual.nmc(), optax.sgd(0.1), streams.class_incremental(SOURCE, 5))
