"""SupSup: steps of its scores against numpy, masks of exact size, and answers that stay to the bit."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from tests.masked import LAYERS, STREAM, Whole, asked, gradients, masks_of, numbers
from tests.rehearsed import MODEL, learner_of, rows_of, spy


def test_steps_of_sgd_are_those_of_straight_through_gradients_in_numpy():
    learner = learner_of(continual.supsup(3, density=0.4), spy(8), stream=STREAM, optimizer=optax.sgd(0.5))
    data, step = core.to_device(learner.stream), jax.jit(learner.step)
    state = jax.jit(learner.begin)(core.start(learner), data, 0)
    weights = numbers(state.frozen["weights"])
    for name, fan_in in zip(LAYERS, (12, 8), strict=True):
        np.testing.assert_allclose(np.abs(weights[name]), np.sqrt(2 / fan_in), rtol=1e-6)
        assert 0.8 < np.abs(state.params["scores"][name]).max() * np.sqrt(fan_in) <= 1
    for i in range(3):
        scores = numbers(state.params["scores"])
        masks = masks_of(scores, 0.4)
        state, _ = step(state, data, 0, i)
        inputs, labels = rows_of(STREAM, state.method_state["spy"])
        found = gradients({name: weights[name] * masks[name] for name in LAYERS}, inputs, labels, np.arange(6) < 2)
        for name in LAYERS:
            expected = scores[name] - 0.5 * found[name] * weights[name] * np.sign(scores[name])
            np.testing.assert_allclose(state.params["scores"][name], expected, atol=1e-6)


@functools.cache
def whole():
    return Whole(continual.supsup(3, density=0.3))


def test_later_experiences_change_no_answer_and_no_weight():
    states, answers = whole().states, whole().answers
    np.testing.assert_array_equal(answers[2][0], answers[0][0])
    np.testing.assert_array_equal(answers[2][1], answers[1][1])
    assert np.any(answers[1][1] != answers[0][1]) and np.any(answers[2][0] != answers[2][1])
    first, last = states[0].frozen, states[3].frozen
    for part in ("weights", "network"):
        jax.tree.map(np.testing.assert_array_equal, first[part], last[part])


def test_an_experience_starts_with_new_scores_and_a_new_state_of_the_optimizer():
    begun = [whole().begin(whole().states[t], t) for t in range(3)]
    for state in begun:
        assert optax.tree.get(state.opt_state, "count") == 0
    for name, before in whole().states[1].params["scores"].items():
        drawn = [state.params["scores"][name] for state in begun]
        assert not np.any(drawn[1] == before) and not np.any(drawn[1] == drawn[2])
        assert all(np.abs(scores).max() * np.sqrt(before.shape[0]) <= 1 for scores in drawn)


def test_the_mask_of_an_experience_is_kept_in_its_exact_size():
    for t in range(3):
        for name, expected in masks_of(whole().states[t + 1].params["scores"], 0.3).items():
            np.testing.assert_array_equal(whole().states[3].frozen["masks"][name][t], expected)


def test_each_task_answers_by_statistics_of_its_own():
    state = whole().states[3]
    other = state._replace(model_state=jax.tree.map(lambda bank: bank.at[1].add(1.0), state.model_state))
    np.testing.assert_array_equal(whole().answer(other, asked(0)), whole().answers[2][0])
    assert np.any(whole().answer(other, asked(1)) != whole().answers[2][1])


def test_rows_of_another_task_than_the_first_get_no_answer():
    mixed = asked(0) | {"task": np.array([0] * 5 + [1, 2, -1, 3], np.int32)}
    logits = whole().answer(whole().states[3], mixed)
    assert np.isnan(logits[5:]).all()
    np.testing.assert_array_equal(logits[:5], whole().answers[2][0][:5])


def test_trained_weights_may_stay_as_they_are():
    variables = MODEL.init(jax.random.key(0), np.zeros((1, 12), np.float32))
    made = continual.supsup(2, weights="model").model(MODEL._replace(init=lambda rng, inputs: variables))
    frozen = made.init(jax.random.key(1), jnp.zeros((1, 12))).frozen
    np.testing.assert_array_equal(frozen["weights"]["head.kernel"], variables.params["head"]["kernel"])
    np.testing.assert_array_equal(frozen["network"]["head"]["bias"], variables.params["head"]["bias"])


@pytest.mark.parametrize("weights", ["signed", "model"])
def test_a_kernel_of_zeros_is_signed_at_random(weights):
    variables = jax.tree.map(jnp.ones_like, MODEL.init(jax.random.key(0), jnp.zeros((1, 12))))
    variables.params["head"]["kernel"] *= 0
    model = MODEL._replace(init=lambda rng, inputs: variables)
    made = continual.supsup(2, weights=weights).model(model).init(jax.random.key(1), jnp.zeros((1, 12)))
    head, first = (made.frozen["weights"][name] for name in ("head.kernel", "dense_0.kernel"))
    np.testing.assert_allclose(jnp.abs(head), np.sqrt(2 / 8), rtol=1e-6)
    assert 0 < jnp.sum(head > 0) < head.size
    np.testing.assert_allclose(first, np.sqrt(2 / 12) if weights == "signed" else 1.0, rtol=1e-6)


def test_parameters_of_half_precision_stay_so():
    module = nn.Dense(6, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    learner = learner_of(continual.supsup(3), model=core.from_linen(module), stream=STREAM)
    state, data = core.start(learner), core.to_device(STREAM)
    new, _ = jax.eval_shape(learner.step, state, data, 0, 0)
    assert new.params["scores"]["kernel"].dtype == jnp.bfloat16


def test_what_it_refuses():
    for arguments, match in (
        ({"num_tasks": 0}, "num_tasks expects a whole number of at least 1, got 0"),
        ({"density": 0.0}, "density must be above 0"),
        ({"density": 1.5}, "density must be between 0 and 1"),
        ({"weights": "own"}, "weights must be one of 'signed', 'model'"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.supsup(**{"num_tasks": 3, **arguments})
    for options, match in (
        ({"match": "nothing"}, "supsup: match='nothing' finds no parameter: choose from dense_0.bias"),
        ({"match": "bias"}, r"supsup masks kernels of two axes or more, got dense_0.bias \(8,\)"),
        ({"density": 0.004}, r"supsup: density=0.004 leaves no weight of dense_0.kernel \(12, 8\)"),
    ):
        with pytest.raises(ValueError, match=match):
            learner_of(continual.supsup(3, **options), stream=STREAM)
    with pytest.raises(ValueError, match="supsup has masks for 2 tasks, and the stream has 3 experiences"):
        core.start(learner_of(continual.supsup(2), stream=STREAM))
    with pytest.raises(ValueError, match="supsup needs the task of a row when predicting"):
        learner_of(continual.supsup(3), stream=testing.standard_stream())
    asking = learner_of(continual.supsup(3), continual.ewc(1.0), stream=STREAM)
    with pytest.raises(ValueError, match="leave out methods that ask the network without a task"):
        jax.eval_shape(asking.end, core.start(asking), core.to_device(STREAM), 0)
    replayed = learner_of(continual.er(20), continual.supsup(3), stream=STREAM)
    state, data = core.start(replayed), core.to_device(STREAM)
    with pytest.raises(ValueError, match="supsup learns one task a batch, and another method appends rows"):
        jax.eval_shape(replayed.step, state, data, 0, 0)
