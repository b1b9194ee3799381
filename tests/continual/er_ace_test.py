"""ER-ACE against one step written by hand from what the memory holds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, ops, testing

RATE, SEED = 0.1, 4


def learner_of(method, *, model=None, stream=None, batch_size=8):
    """A softmax-linear model under SGD on the standard stream."""
    model = model or core.from_linen(models.MLP(6, hidden=()))
    stream = stream or testing.standard_stream()
    return core.make_learner(model, method, optax.sgd(RATE), stream, batch_size=batch_size)


def spy(shape, dtype, look):
    """Remembers what `look(ctx)` saw in the last step; last in a chain."""
    return core.Method(
        "spy", init=lambda rng, params, ctx: jnp.zeros(shape, dtype), update=lambda s, ts, ctx: (look(ctx), ts)
    )


def cross_entropy(logits, label, classes):
    """Of one row, over some classes: the value and its slope with respect to the logits."""
    exps = {c: np.exp(logits[c]) for c in classes}
    slope = np.array([exps.get(c, 0.0) / sum(exps.values()) - (c == label) for c in range(len(logits))])
    return np.log(sum(exps.values())) - logits[label], slope


def test_steps_by_hand_incoming_rows_against_their_classes_and_those_to_come():
    """Batches of two: in the last step of the second experience (37 rows) one is padding, so one class is there."""
    num = 5
    seen = spy((2,), jnp.int32, lambda ctx: ctx.incoming["row"])
    learner = learner_of(core.chain(continual.er_ace(20, batch_size=num), seen), batch_size=2)
    stream, data, chunk = learner.stream, core.to_device(learner.stream), jax.jit(learner.chunk)
    labels, views = stream.source.train["labels"], np.asarray(stream.origins.view)
    state, _ = chunk(core.start(learner, SEED), data, 0, 0, 25)
    at, present = 0, []
    for i in (3, 18):
        before, _ = chunk(state, data, 1, at, i - at)
        after, record = chunk(before, data, 1, i, 1)
        state, at = after, i + 1
        key = jax.random.fold_in(jax.random.fold_in(before.rng, 1), i)
        buffer = before.method_state["er_ace"].buffer
        held = min(int(buffer.seen), 20)
        rng = core.tag(core.tag(key, "er_ace"), "loss")
        slots = np.asarray(ops.permute_index(rng, jnp.arange(num) % held, jnp.int32(held)))
        real = 1 if i == 18 else 2
        incoming = np.asarray(after.method_state["spy"])
        arrived = incoming[:real]
        present.append(set(labels[arrived].tolist()))
        rows = [(row, 1, present[-1] | {4, 5}, real) for row in arrived]
        memory = jax.tree.map(np.asarray, buffer.records)
        rows += [(memory["row"][slot], memory["experience"][slot], set(range(6)), num) for slot in slots]
        head = jax.tree.map(lambda p: np.asarray(p, np.float64), before.params["head"])
        value, grads = 0.0, {"kernel": 0.0, "bias": 0.0}
        for row, experience, classes, count in rows:
            x = stream.source.train["inputs"][row].astype(np.float64)[views[experience]]
            own, slope = cross_entropy(x @ head["kernel"] + head["bias"], labels[row], classes)
            value += own / count
            grads = {"kernel": grads["kernel"] + np.outer(x, slope) / count, "bias": grads["bias"] + slope / count}
        np.testing.assert_allclose(np.ravel(record["loss"])[-1], value, rtol=1e-5)
        for name, grad in grads.items():
            np.testing.assert_allclose(after.params["head"][name], head[name] - RATE * grad, rtol=1e-5, atol=1e-6)
    assert present[0] == {2, 3} and len(present[1]) == 1, "the example has both kinds of batches"
    assert labels[incoming[1]] not in present[1], "the padding of this example is of another class"


def test_the_first_experience_is_plain_training_and_the_second_is_not():
    after = []
    for method in (core.identity(), continual.er_ace(20)):
        # In some batches of three one class of the first experience is missing: it is not masked.
        learner = learner_of(method, model=testing.standard_model(), batch_size=3)
        data, chunk = core.to_device(learner.stream), jax.jit(learner.chunk)
        first, _ = chunk(core.start(learner), data, 0, 0, 17)
        after.append([(s.params, s.model_state) for s in (first, chunk(first, data, 1, 0, 2)[0])])
    plain, ace = after
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain[0], ace[0])
    assert all(not np.allclose(a, b, atol=1e-4) for a, b in zip(*map(jax.tree.leaves, (plain[1], ace[1])), strict=True))


def test_the_mask_keeps_to_the_heads_of_the_stream_and_leaves_appended_rows_alone():
    seen = spy((16, 6), bool, lambda ctx: ctx.batch["classes"])
    method = core.chain(continual.er(20), continual.er_ace(20), seen)
    learner = learner_of(method, stream=testing.standard_stream(task_known=True))
    data, chunk = core.to_device(learner.stream), jax.jit(learner.chunk)
    state, _ = chunk(core.start(learner), data, 0, 0, 7)
    state, _ = chunk(state, data, 1, 0, 3)
    classes = np.asarray(state.method_state["spy"])
    assert classes[:8].tolist() == [[False, False, True, True, False, False]] * 8, "both classes of the task are there"
    assert set(map(tuple, classes[8:].tolist())) == {
        (True, True, False, False, False, False),
        (False, False, True, True, False, False),
    }


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number of at least 1, got 0"),
        ({"size": 5, "batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"size": 5, "policy": "fifo"}, "policy must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.er_ace(**arguments)
    learner = learner_of(core.chain(continual.er_ace(20), continual.er(20)))
    with pytest.raises(ValueError, match="no classes: put the method that appends rows before the one that adds"):
        jax.eval_shape(
            learner.step, jax.eval_shape(learner.init, jax.random.key(0)), core.to_device(learner.stream), 0, 0
        )
