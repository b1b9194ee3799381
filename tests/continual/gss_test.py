"""GSS: scores from gradients against one row at a time, and which row gives way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, ops, testing
from ctrain_jax.continual.replay._gss import GssState, _taken

STREAM, MODEL = testing.standard_stream(), testing.standard_model()


def test_scores_are_the_largest_cosines_of_gradients():
    """The memory holds as many rows as are compared, so that it is known which."""
    learner = core.make_learner(MODEL, continual.gss(30, compare=2), optax.sgd(0.1), STREAM, batch_size=4)
    data = core.to_device(STREAM)
    state = learner.begin(core.start(learner), data, 0)
    held = state.method_state["gss"].buffer
    two = np.asarray(STREAM.experiences["train"].rows[0, :2])
    records = held.records | {"row": held.records["row"].at[:2].set(two)}
    method_state = {"gss": GssState(held._replace(records=records, seen=jnp.int32(2)), jnp.zeros(30))}
    after, _ = learner.step(state._replace(method_state=method_state), data, 0, 0)
    new = after.method_state["gss"]
    assert int(new.buffer.seen) == 6
    inputs, labels = (np.asarray(STREAM.source.train[name]) for name in ("inputs", "labels"))
    order = np.asarray(STREAM.origins.view[0])

    @jax.jit
    @jax.grad
    def slope(params, inputs, label):
        outputs, _ = MODEL.apply(core.Variables(params, after.model_state), inputs[None])
        return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, label[None])[0]

    def direction(row):
        leaves = jax.tree.leaves(slope(after.params, inputs[row][order], labels[row]))
        flat = np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])
        return flat / np.linalg.norm(flat)

    taken = np.asarray(new.buffer.records["row"])[2:6]
    cosines = np.asarray([[direction(row) @ direction(other) for other in two] for row in taken])
    np.testing.assert_allclose(new.scores[2:6], 1 + cosines.max(1), atol=1e-5)
    assert np.ptp(cosines, axis=1).min() > 0.01 and len(set(cosines.argmax(1))) == 2


def full(scores):
    buffer = ops.BufferState({"row": jnp.arange(len(scores), dtype=jnp.int32)}, jnp.int32(len(scores)))
    return GssState(buffer, jnp.asarray(scores, jnp.float32))


def offered(state, score, keep=True, seeds=2000):
    """How often each slot gave way to one row of a score."""
    batch = {"row": jnp.asarray([99], jnp.int32)}

    def run(seed):
        new = _taken(state, jax.random.key(seed), batch, jnp.asarray([score]), jnp.asarray([keep]))
        return new.buffer.records["row"] == 99, new.scores, new.buffer.seen

    took, scores, seen = jax.vmap(run)(jnp.arange(seeds))
    np.testing.assert_array_equal(np.asarray(scores)[np.asarray(took)], np.float32(score))
    np.testing.assert_array_equal(seen, len(state.scores))
    return np.asarray(took).mean(0)


def test_a_row_gives_way_by_its_own_score():
    scores = np.array([0.2, 0.6, 1.2, 0.0])
    drawn, gives_way = scores / scores.sum(), scores / (scores + 0.3)
    np.testing.assert_allclose(offered(full(scores), 0.3), drawn * gives_way, atol=0.04)


def test_what_is_like_the_memory_or_padding_is_not_taken():
    scores = np.array([0.2, 0.6, 1.2, 0.0])
    assert offered(full(scores), 1.0).sum() == 0
    assert offered(full(scores), 0.3, keep=False).sum() == 0


def test_wrong_use_is_refused():
    for options in ({"size": 0}, {"size": 5, "compare": 0}, {"size": 5, "batch_size": 0}):
        with pytest.raises(ValueError, match="whole number of at least 1, got 0|size"):
            continual.gss(**options)
