"""ExSSNeT: both stages against numpy, weights that belong to one task, and answers that stay to the bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core
from tests.masked import LAYERS, STREAM, Whole, asked, gradients, masks_of, numbers
from tests.rehearsed import learner_of, rows_of, spy


def test_scores_learn_and_then_the_weights_of_their_mask():
    """Seven steps of SGD with momentum, of which three find the mask."""
    method = continual.exssnet(3, density=0.4, mask_share=0.4)
    learner = learner_of(method, spy(8), stream=STREAM, optimizer=optax.sgd(0.5, momentum=0.9))
    data, step = core.to_device(STREAM), jax.jit(learner.step)
    state = jax.jit(learner.begin)(core.start(learner), data, 0)
    scores, weights = numbers(state.params["scores"]), numbers(state.params["weights"])
    speed, masks = dict.fromkeys(LAYERS, 0.0), {}
    for i in range(6):
        if i < 4:
            masks = masks_of(scores, 0.4)
        state, _ = step(state, data, 0, i)
        inputs, labels = rows_of(STREAM, state.method_state["spy"])
        found = gradients({name: weights[name] * masks[name] for name in LAYERS}, inputs, labels, np.arange(6) < 2)
        for name in LAYERS:
            grads = found[name] * (weights[name] * np.sign(scores[name]) if i < 3 else masks[name])
            speed[name] = grads + 0.9 * speed[name] * (i != 3)
            (scores if i < 3 else weights)[name] -= 0.5 * speed[name]
            np.testing.assert_allclose(state.params["scores"][name], scores[name], atol=1e-5)
            np.testing.assert_allclose(state.params["weights"][name], weights[name], atol=1e-5)


def test_what_stands_still_counts_in_no_norm():
    tx = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    learner = learner_of(continual.exssnet(3, density=0.4), stream=STREAM, optimizer=tx)
    data = core.to_device(STREAM)
    state = jax.jit(learner.begin)(core.start(learner), data, 0)
    new, _ = jax.jit(learner.step)(state, data, 0, 0)
    moved = optax.tree.norm(optax.tree.sub(new.params["scores"], state.params["scores"]))
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)


@functools.cache
def whole():
    return Whole(continual.exssnet(3, density=0.3))


def test_an_experience_changes_the_weights_of_its_mask_that_no_earlier_mask_has():
    masks = whole().states[3].frozen["masks"]
    for t in range(3):
        before, after = (whole().states[k].params["weights"] for k in (t, t + 1))
        assert set(after) == {"Dense_0.kernel", "Dense_1.kernel", "head.kernel"}
        for name, bank in masks.items():
            assert bank[t].sum() == round(0.3 * bank[t].size)
            own = np.asarray(bank[t]) & ~np.asarray(bank[:t]).any(0)
            changed = np.asarray(before[name] != after[name])
            assert not np.any(changed & ~own)
            assert 0 < changed.sum()
            np.testing.assert_array_equal(whole().states[t + 1].method_state["exssnet"].exclusive[name], own)


def test_later_experiences_change_no_answer():
    answers = whole().answers
    np.testing.assert_array_equal(answers[2][0], answers[0][0])
    np.testing.assert_array_equal(answers[2][1], answers[1][1])
    assert np.any(answers[1][1] != answers[0][1])


def test_a_task_that_comes_again_changes_no_answer_of_another():
    data, again = whole().data, jnp.array([0, 1, 0], jnp.int32)
    train = data.experiences["train"]._replace(task=again)
    data = data._replace(experiences=data.experiences | {"train": train}, origins=data.origins._replace(task=again))
    state = whole().experience(whole().states[2], 2, data)
    np.testing.assert_array_equal(whole().answer(state, asked(1)), whole().answers[1][1])
    assert np.any(whole().answer(state, asked(0)) != whole().answers[1][0])


def test_each_stage_has_an_optimizer_of_its_own():
    assert optax.tree.get(whole().states[3].opt_state, "count") == 9 - 4


def first_with(mask_share):
    """The states before and after the first experience."""
    start = whole().states[0]
    own = start.method_state["exssnet"]._replace(mask_share=jnp.float32(mask_share))
    return start, whole().experience(start._replace(method_state=start.method_state | {"exssnet": own}), 0)


def test_without_steps_for_the_mask_weights_learn_in_all():
    start, state = first_with(0)
    assert optax.tree.get(state.opt_state, "count") == 7
    assert all(np.any(state.params["weights"][name] != leaf) for name, leaf in start.params["weights"].items())


def test_with_all_steps_for_the_mask_no_weight_learns():
    start, state = first_with(1)
    jax.tree.map(np.testing.assert_array_equal, state.params["weights"], start.params["weights"])
    for name, expected in masks_of(state.params["scores"], 0.3).items():
        np.testing.assert_array_equal(state.frozen["masks"][name][0], expected)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="mask_share must be between 0 and 1"):
        continual.exssnet(3, mask_share=1.5)
    with pytest.raises(ValueError, match="density must be above 0"):
        continual.exssnet(3, density=0.0)
    with pytest.raises(ValueError, match="exssnet has masks for 2 tasks, and the stream has 3 experiences"):
        core.start(learner_of(continual.exssnet(2), stream=STREAM))
    replayed = learner_of(continual.er(20), continual.exssnet(3), stream=STREAM)
    state, data = core.start(replayed), core.to_device(STREAM)
    with pytest.raises(ValueError, match="exssnet learns one task a batch"):
        jax.eval_shape(replayed.step, state, data, 0, 0)
