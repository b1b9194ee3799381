"""Two adapters: how the slow one follows, what an answer is, and where the two are one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import core, peft, testing

STREAM, MODEL = testing.standard_stream(), testing.standard_model()


def learner(**options):
    method = peft.lae(peft.lora(2, train="^head"), **options)
    return core.make_learner(MODEL, method, optax.adamw(1e-2, weight_decay=0.1), STREAM, batch_size=16)


def through(run, experiences, data):
    state = core.start(run)
    for t in range(experiences):
        state = core.run_experience(run, state, data, t)
    return state


def test_the_slow_adapter_is_the_average_and_the_answer_the_surer_of_two():
    run, data = learner(decay=0.8), core.to_device(STREAM)
    state = run.begin(through(run, 1, data), data, 1)
    base = jax.tree.map(np.array, state.frozen)
    slow = jax.tree.map(np.array, state.params["new"])
    jax.tree.map(np.testing.assert_array_equal, state.method_state["lae"].offline, slow)
    step = jax.jit(run.step)
    for i in range(3):
        state, _ = step(state, data, 1, i)
        slow = jax.tree.map(lambda a, b: 0.8 * a + 0.2 * np.asarray(b), slow, state.params["new"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.method_state["lae"].offline, slow)
    jax.tree.map(np.testing.assert_array_equal, state.frozen, base)

    # a state in which the two disagree
    far = jax.tree.map(lambda x: x + 0.5, state.method_state["lae"].offline)
    state = state._replace(method_state={"lae": state.method_state["lae"]._replace(offline=far)})
    inputs = STREAM.source.test["inputs"][:7]
    model = peft.lora(2, train="^head")(MODEL)
    probabilities = []
    for new in (state.params["new"], far):
        variables = core.Variables({**state.params, "new": new}, state.model_state, state.frozen)
        logits = np.asarray(model.apply(variables, jnp.asarray(inputs))[0].logits, np.float64)[:, :4]
        probabilities.append(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    answered = core.predictor(run, state)(jnp.asarray(inputs)).logits
    expected = np.maximum(*probabilities)
    assert (expected != probabilities[0]).any() and (expected != probabilities[1]).any()
    np.testing.assert_allclose(np.exp(answered[:, :4]), expected, atol=1e-5)
    np.testing.assert_allclose(np.exp(answered[:, 4:]), 0, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_of_0_is_the_online_adapter_and_of_1_that_of_the_first_experience(decay):
    run, data = learner(decay=decay), core.to_device(STREAM)
    first = through(run, 1, data).params["new"]
    state = through(run, 2, data)
    expected = state.params["new"] if decay == 0 else first
    offline = state.method_state["lae"].offline
    for layer in expected:
        for name, x in expected[layer].items():
            assert np.array_equal(offline[layer][name], x) and np.isfinite(x).all()


def test_the_adapter_waits_while_the_head_settles():
    run, data = learner(freeze_steps=2), core.to_device(STREAM)
    step = jax.jit(run.step)
    start = core.start(run)
    first, _ = step(run.begin(start, data, 0), data, 0, 0)
    kernel = next(iter(start.params["new"]))
    assert np.any(first.params["new"][kernel]["b"] != 0)  # in the first experience it does not wait
    state = through(run, 1, data)
    state = run.begin(state, data, 1)
    moved = []
    for i in range(3):
        before = jax.tree.map(np.array, state.params)
        state, _ = step(state, data, 1, i)
        changes = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), state.params, before)
        moved.append({name: max(jax.tree.leaves(change)) for name, change in changes.items()})
    assert [m["new"] > 0 for m in moved] == [False, False, True]
    assert all(m["base"] > 0 for m in moved)


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="decay must be between 0 and 1"):
        peft.lae(peft.lora(2), decay=1.5)
    with pytest.raises(ValueError, match="freeze_steps expects .* got -1"):
        peft.lae(peft.lora(2), freeze_steps=-1)
    run = core.make_learner(MODEL, peft.lae(lambda model: model), optax.sgd(0.1), STREAM)
    with pytest.raises(ValueError, match="finds none: put it first in the chain"):
        core.start(run)
