"""Expert Gate: an autoencoder's step by hand, answers of experts by hand, and where an experience begins."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from tests.short import short_learner

STREAM, MODEL = testing.standard_stream(), testing.standard_model()
TRAIN = STREAM.experiences["train"]


def rows_of(t):
    """All inputs of an experience, as the network sees them."""
    inputs = np.asarray(STREAM.source.train["inputs"])[TRAIN.rows[t][: TRAIN.size[t]]]
    return inputs[:, np.asarray(STREAM.origins.view)[t]]


def squashed(s, x):
    return 1 / (1 + np.exp(-(x - float(s.centre)) / float(s.scale)))


def rebuilt(gate, x):
    hidden = np.maximum(0, x @ gate["dense_0"]["kernel"] + gate["dense_0"]["bias"])
    return 1 / (1 + np.exp(-(hidden @ gate["head"]["kernel"] + gate["head"]["bias"])))


def slot(bank, t):
    """What the experience t left."""
    return jax.tree.map(lambda x: x[np.asarray(t)], bank)


def learned(method, upto):
    learner = short_learner(method, stream=STREAM)
    data, state = core.to_device(STREAM), core.start(learner)
    for t in range(upto):
        state = core.run_experience(learner, state, data, t)
    return learner, data, state


def test_inputs_are_squashed_by_the_statistics_of_the_first_experience():
    s = learned(continual.expert_gate(code=3), 2)[2].method_state["expert_gate"]
    first = rows_of(0).astype(np.float64)
    np.testing.assert_allclose([s.centre, s.scale], [first.mean(), first.std()], rtol=1e-5)


def test_a_step_of_the_autoencoder():
    seen = []

    def look(s, ts, ctx):
        jax.debug.callback(seen.append, ctx.incoming["inputs"])
        return s, ts

    method = core.chain(continual.expert_gate(code=3, learning_rate=0.1), core.Method("look", update=look))
    learner, data = short_learner(method, stream=STREAM), core.to_device(STREAM)
    state = learner.begin(core.start(learner), data, 0)
    before = jax.tree.map(np.asarray, state.method_state["expert_gate"])
    after, _ = learner.step(state, data, 0, 0)
    jax.effects_barrier()
    x = jnp.asarray(squashed(before, np.asarray(seen[0])))

    def cost(gate):
        hidden = jax.nn.relu(x @ gate["dense_0"]["kernel"] + gate["dense_0"]["bias"])
        p = jax.nn.sigmoid(hidden @ gate["head"]["kernel"] + gate["head"]["bias"])
        return -jnp.mean(jnp.sum(x * jnp.log(p) + (1 - x) * jnp.log1p(-p), axis=1))

    updates, _ = optax.adam(0.1).update(jax.grad(cost)(before.gate), optax.adam(0.1).init(before.gate))
    expected = jax.tree.leaves(optax.apply_updates(before.gate, updates))
    for ours, theirs in zip(jax.tree.leaves(after.method_state["expert_gate"].gate), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_answers_are_those_of_the_experts_weighed_by_their_gates():
    learner, data, state = learned(continual.expert_gate(code=3, temperature=0.3, learning_rate=0.02), 2)
    s = jax.tree.map(np.asarray, state.method_state["expert_gate"])
    inputs = np.concatenate([rows_of(0)[:9], rows_of(1)[:7]])
    batch = {"inputs": jnp.asarray(inputs), "weights": jnp.ones(16), "row": jnp.zeros(16, jnp.int32)}
    answer = learner.predict(state, data, np.int32(1), batch)
    x = squashed(s, inputs)
    errors = np.stack([((rebuilt(slot(s.gates, t), x) - x) ** 2).sum(1) for t in range(2)])
    gates = np.exp(-errors / 0.3) / np.exp(-errors / 0.3).sum(0)
    assert 0.1 < gates.min(1).max() < 0.9
    total = np.zeros((16, 6))
    for t in range(2):
        expert = slot(s.experts, t)
        logits = np.asarray(MODEL.apply(core.Variables(*expert[:2]), jnp.asarray(inputs))[0].logits)
        own = np.exp(logits[:, 2 * t : 2 * t + 2])
        total[:, 2 * t : 2 * t + 2] = gates[t][:, None] * own / own.sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(answer.logits), total, atol=1e-5)


def test_an_experience_begins_at_the_expert_that_knows_its_rows_best_and_experts_stay():
    learner, data, state = learned(continual.expert_gate(code=3, learning_rate=0.02), 2)
    s = jax.tree.map(np.asarray, state.method_state["expert_gate"])
    x = squashed(s, rows_of(2))
    errors = [((rebuilt(slot(s.gates, t), x) - x) ** 2).sum() for t in range(2)]
    for nearest in range(2):
        # Exchanged, the other one is the nearest.
        order = [0, 1, 2] if np.argmin(errors) == nearest else [1, 0, 2]
        gates = slot(s.gates, order)
        begun = learner.begin(state._replace(method_state={"expert_gate": s._replace(gates=gates)}), data, np.int32(2))
        expected = slot(s.experts, nearest)
        jax.tree.map(np.testing.assert_array_equal, core.Variables(begun.params, begun.model_state), expected)
    own = begun.method_state["expert_gate"]
    assert optax.tree.get(state.opt_state, "count") > 0 and optax.tree.get(begun.opt_state, "count") == 0
    assert optax.tree.get(s.opt_state, "count") > 0 and optax.tree.get(own.opt_state, "count") == 0
    assert not np.any(own.gate["dense_0"]["kernel"] == s.gate["dense_0"]["kernel"]), "an autoencoder is drawn anew"
    after = core.run_experience(learner, jax.tree.map(jnp.array, state), data, 2).method_state["expert_gate"]
    for old, new in zip(jax.tree.leaves(s.experts), jax.tree.leaves(after.experts), strict=True):
        np.testing.assert_array_equal(old[:2], new[:2])


def test_what_it_refuses():
    for wrong, sentence in (
        ({"code": 0}, "code"),
        ({"temperature": 0.0}, "temperature"),
        ({"learning_rate": 0}, "lea"),
    ):
        with pytest.raises(ValueError, match=sentence):
            continual.expert_gate(**wrong)
