"""Rows of an experience side by side, and their features as a method before it in a chain leaves the network."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax import continual, core, ops, testing
from tests.short import short_learner


def looking(seen):
    """A method that keeps what `seen(ctx, ts)` says when an experience is over."""
    return core.Method(
        "looking",
        init=lambda rng, params, ctx: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), seen(None, None)),
        end=lambda s, ts, ctx: (seen(ctx, ts), ts),
    )


def both(ctx, ts):
    """Labels: each by itself, those that come with features, and these without class 3."""
    if ctx is None:
        many = jnp.zeros((3, ROWS), jnp.int32)
        return {"labels": many, "features": jnp.zeros((ROWS, 16)), "weights": jnp.zeros(ROWS)}
    labels, weights = ops.each_row(ctx, lambda b: (b["labels"], b["weights"]), (jnp.int32(-1), jnp.float32(7.0)))
    features, known = ops.labeled_features(ctx, ts)
    skipped = ops.labeled_features(ctx, ts, lambda batch: batch["labels"] == 3)[1]
    return {"labels": jnp.stack([labels, known, skipped]), "features": features, "weights": weights}


ROWS = testing.standard_stream().experiences["train"].rows.shape[1]


def test_rows_are_those_of_the_experience_and_their_features_those_of_the_network_that_is_left():
    """By a method before it in the chain, which has other parameters and other statistics than training."""
    learner = short_learner(core.chain(continual.weight_interpolation(0.3), looking(both)), steps=6)
    data = core.to_device(learner.stream)
    state = core.run_experience(learner, core.start(learner), data, 0)
    state = core.run_experience(learner, state, data, 1)
    found, train = state.method_state["looking"], learner.stream.experiences["train"]
    size = int(train.size[1])
    rows = train.rows[1][:size]
    assert size < ROWS
    labels = learner.stream.source.train["labels"][rows]
    wanted = labels, labels, np.where(labels == 3, 6, labels)
    for got, own, beyond in zip(found["labels"], wanted, (-1, 6, 6), strict=True):
        assert got.tolist() == [*own.tolist(), *[beyond] * (ROWS - size)]
    inputs = learner.stream.source.train["inputs"][rows][:, np.asarray(learner.stream.origins.view)[1]]
    outputs, _ = testing.standard_model().apply(core.Variables(state.params, state.model_state), inputs)
    np.testing.assert_allclose(found["features"][:size], outputs.features, rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(found["features"])[size:] == 0) and np.all(np.asarray(found["weights"])[size:] == 7.0)
