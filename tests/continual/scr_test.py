"""SCR against loops in numpy: the loss of a step, the class means, the answers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, testing
from tests.losses.supervised_contrastive_test import by_hand

TEMPERATURE, SIZE = 0.3, 20


def model():
    return core.from_linen(models.MLP(6, hidden=(5,), activation=jnp.tanh))


def turned(rng, x):
    return x[:, ::-1]


def spy(num):
    """Remembers rows, experiences and weights of the last batch; last in a chain."""
    kept = {"row": jnp.int32, "experience": jnp.int32, "weights": jnp.float32}
    return core.Method(
        "spy",
        init=lambda rng, params, ctx: {name: jnp.zeros(num, dtype) for name, dtype in kept.items()},
        update=lambda s, ts, ctx: ({name: ctx.batch[name] for name in s}, ts),
    )


@functools.cache
def run():
    """A learner that sees 8 rows, 6 of the memory, and each from both sides; its first steps and ends."""
    method = continual.scr(SIZE, temperature=TEMPERATURE, batch_size=6, augment_fn=turned)
    learner = core.make_learner(
        model(), core.chain(method, spy(28)), optax.sgd(0.1), testing.standard_stream(), batch_size=8
    )
    data, step, end = core.to_device(learner.stream), jax.jit(learner.step), jax.jit(learner.end)
    states, records = [core.start(learner)], []
    for t, i in ((0, 0), (0, 1), (0, 6), (1, 0), (1, 1)):
        state, record = step(states[-1], data, t, i)
        states.append(state)
        records.append(record)
    return learner, data, states, records, end(states[-1], data, 1)


def features(learner, params, row, experience):
    view = np.asarray(learner.stream.origins.view)[experience]
    inputs = np.take_along_axis(learner.stream.source.train["inputs"][row], view, axis=1)
    return [
        np.asarray(model().apply(core.Variables(params, {}), x)[0].features) for x in (inputs, turned(None, inputs))
    ]


def test_the_loss_of_a_step_is_the_contrast_of_all_rows_and_their_second_views():
    learner, _, states, records, _ = run()
    for before, after, record, real in zip(states, states[1:], records, ([8, 0], [8, 6], [2, 6], [8, 6]), strict=False):
        seen = jax.tree.map(np.asarray, after.method_state["spy"])
        assert [seen["weights"][:8].sum(), seen["weights"][8:14].sum()] == real
        row, experience, weights = (np.tile(seen[k][:14], 2) for k in ("row", "experience", "weights"))
        both = np.concatenate(features(learner, before.params, row[:14], experience[:14])).astype(np.float64)
        labels = learner.stream.source.train["labels"][row]
        losses = by_hand(both, labels, TEMPERATURE, weights > 0)
        np.testing.assert_allclose(record["loss"], np.sum(losses * weights) / weights.sum(), rtol=1e-5)
        for name, leaf in before.params["head"].items():
            np.testing.assert_array_equal(leaf, after.params["head"][name], "the head is not trained")


def test_the_means_are_those_of_the_rows_that_the_memory_holds_and_the_answer_the_nearest():
    learner, data, states, _, after = run()
    assert states[-1].method_state["scr"].known.sum() == 0, "nothing is known before the first end"
    records, scr = after.method_state["scr"].buffer.records, after.method_state["scr"]
    row, experience = np.asarray(records["row"]), np.asarray(records["experience"])
    labels, own = learner.stream.source.train["labels"][row], features(learner, after.params, row, experience)[0]
    units = own / np.linalg.norm(own, axis=1, keepdims=True)
    present = sorted(set(labels.tolist()))
    means = np.stack([units[labels == c].mean(0) for c in present])
    assert scr.known.tolist() == [c in present for c in range(6)] and 2 <= len(present) < 6
    np.testing.assert_allclose(scr.means[np.array(present)], means, rtol=1e-5, atol=1e-6)
    asked = {"inputs": jnp.asarray(learner.stream.source.train["inputs"][:30]), "weights": jnp.ones(30)}
    logits = np.asarray(jax.jit(learner.predict)(after, data, 1, asked).logits)
    own = np.asarray(model().apply(core.Variables(after.params, {}), asked["inputs"])[0].features)
    cosines = own @ means.T / np.linalg.norm(own, axis=1, keepdims=True) / np.linalg.norm(means, axis=1)
    np.testing.assert_allclose(logits[:, present], cosines, rtol=1e-4, atol=1e-5)
    absent = [c for c in range(6) if c not in present]
    assert logits[:, absent].max() < -1e30


def test_of_a_memory_that_is_not_full_only_the_rows_that_it_holds_count():
    """Eight rows in twenty slots: the empty ones name row 0."""
    learner, data, states, _, _ = run()
    early = jax.jit(learner.end)(states[1], data, 0).method_state["scr"]
    row = np.asarray(early.buffer.records["row"])[:8]
    labels = learner.stream.source.train["labels"][row]
    own = features(learner, states[1].params, row, np.zeros(8, int))[0]
    units = own / np.linalg.norm(own, axis=1, keepdims=True)
    for c in set(labels.tolist()):
        np.testing.assert_allclose(early.means[c], units[labels == c].mean(0), rtol=1e-5, atol=1e-6)


def test_without_a_second_view_the_batch_is_that_of_er():
    seen = []
    peek = core.Method("peek", update=lambda s, ts, ctx: (seen.append(ctx.batch["inputs"].shape), (s, ts))[1])
    learner = core.make_learner(
        model(), core.chain(continual.scr(SIZE), peek), optax.sgd(0.1), testing.standard_stream(), batch_size=8
    )
    jax.eval_shape(learner.step, jax.eval_shape(learner.init, jax.random.key(0)), core.to_device(learner.stream), 0, 0)
    assert seen == [(16, 12)]


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number of at least 1, got 0"),
        ({"size": 5, "temperature": 0.0}, "temperature must be above 0"),
        ({"size": 5, "batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"size": 5, "policy": "fifo"}, "policy must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.scr(**arguments)
