"""Experience replay against one step written by hand, given what the memory holds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, ops, streams, testing

RATE = 0.1


def learner_of(method, *, batch_size=8, epochs=1, steps=None, stream=None):
    """A softmax-linear model under SGD on the standard stream."""
    model = core.from_linen(models.MLP(6, hidden=()))
    stream = stream or testing.standard_stream()
    return core.make_learner(model, method, optax.sgd(RATE), stream, batch_size=batch_size, epochs=epochs, steps=steps)


def spy(shapes):
    """Remembers the batch after every augment; last in a chain."""
    return core.Method(
        "spy",
        init=lambda rng, params, ctx: {n: jnp.zeros(shape, dtype) for n, (shape, dtype) in shapes.items()},
        update=lambda s, ts, ctx: ({n: ctx.batch[n] for n in s}, ts),
    )


def seen_through_views(stream, rows, experiences):
    inputs = stream.source.train["inputs"][rows]
    views = np.asarray(stream.origins.view)[experiences]
    return np.take_along_axis(inputs, views, axis=1).astype(np.float64), stream.source.train["labels"][rows]


def step_by_hand(params, x, y, weights):
    """One step of SGD on the weighted mean cross-entropy."""
    head = jax.tree.map(lambda p: np.asarray(p, np.float64), params["head"])
    logits = x @ head["kernel"] + head["bias"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    slope = (p / p.sum(1, keepdims=True) - np.eye(6)[y]) * weights[:, None] / max(weights.sum(), 1)
    return {"kernel": head["kernel"] - RATE * x.T @ slope, "bias": head["bias"] - RATE * slope.sum(0)}


@pytest.mark.parametrize("batch_size", [None, 5])
def test_one_step_is_the_mean_over_incoming_and_drawn_rows_by_hand(batch_size):
    num = batch_size or 8
    fields = {"row": ((8 + num,), jnp.int32), "weights": ((8 + num,), jnp.float32)}
    learner = learner_of(core.chain(continual.er(20, batch_size=batch_size), spy(fields)))
    stream, data = learner.stream, core.to_device(learner.stream)
    state, step = core.start(learner), jax.jit(learner.step)
    # Up to the last step of experience 1: 37 rows in batches of 8 leave 3 rows of padding. The edges do nothing.
    for t, i in [(0, i) for i in range(7)] + [(1, i) for i in range(4)]:
        state, _ = step(state, data, t, i)
    buffer = state.method_state["er"].buffer
    after, _ = step(state, data, 1, 4)

    key = jax.random.fold_in(jax.random.fold_in(state.rng, 1), 4)
    rng = core.tag(core.tag(key, "er"), "augment")
    held = min(int(buffer.seen), 20)
    at = np.asarray(ops.permute_index(rng, jnp.arange(num) % held, jnp.int32(held)))
    drawn = {name: np.asarray(leaf)[at] for name, leaf in buffer.records.items()}
    seen = jax.tree.map(np.asarray, after.method_state["spy"])
    np.testing.assert_array_equal(seen["row"][8:], drawn["row"])
    assert seen["weights"].tolist() == [1.0] * 5 + [0.0] * 3 + [1.0] * num
    assert set(drawn["experience"].tolist()) == {0, 1}, "the draw of this example mixes experiences"

    experiences = np.concatenate([np.ones(8, int), drawn["experience"]])
    x, y = seen_through_views(stream, seen["row"], experiences)
    expected = step_by_hand(state.params, x, y, seen["weights"])
    for name in expected:
        np.testing.assert_allclose(after.params["head"][name], expected[name], rtol=1e-5, atol=1e-6)


def test_a_step_of_an_empty_memory_is_a_plain_one_and_leaves_no_trace_in_batchnorm():
    after = []
    for method in (core.identity(), continual.er(20)):
        learner = core.make_learner(
            testing.standard_model(), method, optax.sgd(RATE), testing.standard_stream(), batch_size=8
        )
        state, _ = jax.jit(learner.step)(core.start(learner), core.to_device(learner.stream), 0, 0)
        after.append((state.params, state.model_state))
    # Copies of all incoming rows have the mean and the variance of these.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *after)


@pytest.mark.parametrize("policy", ["reservoir", "class_balanced", "ring"])
def test_the_memory_holds_rows_that_were_seen_with_their_experience(policy):
    learner = learner_of(continual.er(24, policy=policy))
    stream, data, state = learner.stream, core.to_device(learner.stream), core.start(learner)
    train = stream.experiences["train"]
    offered = set()
    for t in range(3):
        state = core.run_experience(learner, state, data, t)
        offered |= {(int(row), t) for row in train.rows[t][: train.size[t]]}
        buffer = state.method_state["er"].buffer
        held = 24 if policy != "ring" else 4 * 2 * (t + 1)
        slots = np.arange(24) < held
        pairs = list(zip(*(np.asarray(buffer.records[k])[slots].tolist() for k in ("row", "experience")), strict=True))
        assert set(pairs) <= offered and len(set(pairs)) == len(pairs) == held
        assert int(jnp.sum(buffer.seen)) == len(offered), "padding is not offered"


def unbalanced_stream():
    """Six classes, two an experience; the first of a pair has ten times the rows of the second."""
    counts = [200, 20] * 3
    labels = np.repeat(np.arange(6), counts)
    inputs = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)
    return streams.class_incremental(streams.arrays(inputs, labels, inputs, labels), 3)


@pytest.mark.parametrize(
    "policy, expected",
    [("class_balanced", [15, 15, 15, 15, 15, 15]), ("ring", [15, 15, 15, 15, 15, 15]), ("reservoir", None)],
)
def test_policies_by_class_balance_a_stream_that_is_not(policy, expected):
    stream = unbalanced_stream()
    learner = learner_of(continual.er(90, policy=policy), stream=stream)
    buffer = core.run_stream(learner, 0).state.method_state["er"].buffer
    counts = np.bincount(stream.source.train["labels"][np.asarray(buffer.records["row"])], minlength=6)
    if expected is not None:
        assert np.abs(counts - expected).max() <= 1
    else:
        # Hypergeometric: 90 of 660 rows, 600 of them of the frequent classes; five standard deviations are 13.
        assert abs(counts[::2].sum() - 90 * 600 / 660) < 13


def test_replayed_rows_of_the_ring_are_the_latest_of_each_class():
    fields = {"row": ((16,), jnp.int32), "labels": ((16,), jnp.int32), "weights": ((16,), jnp.float32)}
    learner = learner_of(core.chain(continual.er(12, policy="ring"), spy(fields)), steps=7)
    data = core.to_device(learner.stream)
    state, offered, step = core.start(learner), {c: [] for c in range(6)}, jax.jit(learner.step)
    for i in range(7):
        state, _ = step(state, data, 0, i)
        batch = jax.tree.map(np.asarray, state.method_state["spy"])
        for row, label, weight in zip(*(batch[name][:8] for name in fields), strict=True):
            offered[int(label)] += [int(row)] if weight else []
    held = np.asarray(state.method_state["er"].buffer.records["row"]).reshape(6, 2)
    for c in (0, 1):
        assert sorted(held[c].tolist()) == sorted(offered[c][-2:])


def test_a_later_epoch_offers_rows_again():
    learner = learner_of(continual.er(20), epochs=3)
    data, state, step = core.to_device(learner.stream), core.start(learner), jax.jit(learner.step)
    for i in range(learner.spec.steps[0]):
        state, _ = step(state, data, 0, i)
    assert int(state.method_state["er"].buffer.seen) == 3 * 50


def test_filled_at_the_end_it_holds_random_rows_of_experiences_that_are_over():
    learner = learner_of(continual.er(60, policy="ring", fill="end"), epochs=2)
    data, plain = core.to_device(learner.stream), learner_of(core.identity(), epochs=2)
    train, ends = learner.stream.experiences["train"], []
    for one in (learner, plain):
        state = core.run_experience(one, core.start(one), data, 0)
        ends.append(state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *ends)
    chosen = []
    for seed in range(2):
        state = core.start(learner, seed)
        for t in range(2):
            state = core.run_experience(learner, state, data, t)
            buffer = state.method_state["er"].buffer
            held = np.asarray(buffer.records["row"]).reshape(6, 10)[: 2 * t + 2].ravel()
            assert len(set(held.tolist())) == len(held) and int(jnp.sum(buffer.seen)) == train.size[: t + 1].sum()
            assert set(held.tolist()) <= set(train.rows[: t + 1].ravel().tolist())
        chosen.append(set(held.tolist()))
    assert chosen[0] != chosen[1]


def test_by_experience_each_has_its_share_of_the_memory():
    state = core.run_stream(learner_of(continual.er(12, policy="experience"), epochs=2), 0).state
    buffer = state.method_state["er"].buffer
    assert sorted(np.asarray(buffer.records["experience"]).tolist()) == [0] * 4 + [1] * 4 + [2] * 4


def test_weighed_by_experiences_the_replayed_rows_count_for_the_experiences_they_come_from():
    fields = {"weights": ((13,), jnp.float32)}
    learner = learner_of(
        core.chain(continual.er(20, batch_size=5, fill="end", weighting="experiences"), spy(fields)), steps=7
    )
    events = core.iterate(learner, core.to_device(learner.stream), core.start(learner))
    for t, event in enumerate(events):
        weights = np.asarray(event.state.method_state["spy"]["weights"])
        # The last of 7 batches of 50 rows holds 2; those of 37 and 66 rows are in mid-epoch.
        assert weights[:8].sum() == (2, 8, 8)[t]
        np.testing.assert_allclose(weights[8:], t * weights[:8].sum() / 5, rtol=1e-6)


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number of at least 1, got 0"),
        ({"size": 5, "batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"size": 5, "policy": "fifo"}, "policy must be one of"),
        ({"size": 5, "fill": "begin"}, "fill must be one of"),
        ({"size": 5, "weighting": "classes"}, "weighting must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.er(**arguments)
    with pytest.raises(ValueError, match="slot for each class"):
        core.start(learner_of(continual.er(3, policy="ring")))
