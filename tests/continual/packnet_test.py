"""PackNet: training, pruning and training on against numpy, owners of exact number, answers that stay to the bit."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core
from tests.masked import LAYERS, STREAM, Whole, asked, gradients, numbers
from tests.rehearsed import learner_of, rows_of, spy

NAMES = ("dense_0.kernel", "dense_0.bias", "head.kernel", "head.bias")


def flat(params):
    """Of both layers in float64, the output layer as the first task has it."""
    leaves = [params["dense_0"]["kernel"], params["dense_0"]["bias"]]
    return numbers(dict(zip(NAMES, leaves + [params["head"][name][0] for name in ("kernel", "bias")], strict=True)))


def test_weights_learn_are_pruned_and_learn_on():
    """Six of seven steps of SGD with momentum, pruned after the fourth."""
    method = continual.packnet(3, share=0.6, retrain_share=0.4)
    learner = learner_of(method, spy(8), stream=STREAM, optimizer=optax.sgd(0.5, momentum=0.9))
    data, step = core.to_device(STREAM), jax.jit(learner.step)
    state = jax.jit(learner.begin)(core.start(learner), data, 0)
    expected, speed, kept = flat(state.params), dict.fromkeys(NAMES, 0.0), True
    for i in range(6):
        state, _ = step(state, data, 0, i)
        inputs, labels = rows_of(STREAM, state.method_state["spy"])
        biases = expected["dense_0.bias"], expected["head.bias"]
        found = gradients({name: expected[name] for name in LAYERS}, inputs, labels, np.arange(6) < 2, biases)
        for name in NAMES:
            found[name] = found[name] * (kept if name == "dense_0.kernel" else True)
            speed[name] = found[name] + 0.9 * speed[name] * (i != 4)
            expected[name] = expected[name] - 0.5 * speed[name]
        if i == 3:
            size = np.abs(expected["dense_0.kernel"])
            kept = size >= np.sort(size.reshape(-1))[round(0.6 * 96)]
            expected["dense_0.kernel"] = expected["dense_0.kernel"] * kept
        for name, leaf in flat(state.params).items():
            np.testing.assert_allclose(leaf, expected[name], atol=1e-5)
    np.testing.assert_array_equal(state.frozen["owner"]["dense_0.kernel"] == 0, kept)


@functools.cache
def whole():
    return Whole(continual.packnet(3, share=0.5))


def test_each_experience_keeps_its_share_of_what_was_free_and_moves_nothing_else():
    states = whole().states
    assert set(states[3].frozen["owner"]) == {"Dense_0.kernel", "Dense_1.kernel"}
    for name, owner in states[3].frozen["owner"].items():
        layer, owner = name.split(".")[0], np.asarray(owner)
        left = owner.size
        for t in range(3):
            kept = left - round(0.5 * left)
            assert np.sum(owner == t) == kept
            left -= kept
            before, after, last = (np.asarray(states[k].params[layer]["kernel"]) for k in (t, t + 1, 3))
            np.testing.assert_array_equal(after[owner < t], before[owner < t])
            np.testing.assert_array_equal(last[owner == t], after[owner == t])
            assert np.all(after[owner > t] == 0) and np.mean(before[owner == t] != after[owner == t]) > 0.8


def test_the_output_layer_is_the_tasks_and_the_rest_the_first_ones():
    for t in range(3):
        before, after = whole().states[t].params, whole().states[t + 1].params
        moved = np.any(np.asarray(before["head"]["kernel"] != after["head"]["kernel"]), (1, 2))
        np.testing.assert_array_equal(moved, np.arange(3) == t)
        rest = [(before[layer], after[layer]) for layer in before if layer != "head"]
        changed = [np.any(a[key] != b[key]) for a, b in rest for key in a if key != "kernel"]
        assert len(changed) >= 3 and all(one == (t == 0) for one in changed)


def test_later_experiences_change_no_answer():
    answers = whole().answers
    np.testing.assert_array_equal(answers[2][0], answers[0][0])
    np.testing.assert_array_equal(answers[2][1], answers[1][1])
    assert np.any(answers[1][1] != answers[0][1]) and np.any(answers[2][0] != answers[2][1])


def test_a_task_that_comes_again_learns_with_what_is_free():
    again = copy.copy(whole())
    train = again.data.experiences["train"]
    again.data = again.data._replace(experiences={"train": train._replace(task=jnp.array([0, 1, 0]))})
    state = again.experience(again.states[2], 2)
    assert state.frozen["last"].tolist() == [2, 1, -1]
    np.testing.assert_array_equal(again.answer(state, asked(1)), again.answers[1][1])
    assert np.any(again.answer(state, asked(0)) != again.answers[0][0])


def test_nothing_is_left_where_nothing_is_freed():
    start = whole().states[0]
    states = start.method_state | {"packnet": start.method_state["packnet"]._replace(share=jnp.float32(0))}
    first = whole().experience(start._replace(method_state=states), 0)
    second = whole().experience(first, 1)
    for layer in ("Dense_0", "Dense_1"):
        np.testing.assert_array_equal(second.params[layer]["kernel"], first.params[layer]["kernel"])
    assert np.any(second.params["head"]["kernel"] != first.params["head"]["kernel"])


def test_what_it_refuses():
    for arguments, match in (
        ({"num_tasks": 0}, "num_tasks expects a whole number of at least 1, got 0"),
        ({"share": 1.5}, "share must be between 0 and 1"),
        ({"retrain_share": -0.1}, "retrain_share must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.packnet(**{"num_tasks": 3, **arguments})
    for options, match in (
        ({"match": "nothing"}, "packnet: match='nothing' finds no parameter: choose from dense_0.bias"),
        ({"match": "bias"}, r"packnet masks kernels of two axes or more, got dense_0.bias \(8,\)"),
        ({"own": "fc"}, "packnet: own='fc' finds no parameter: choose from dense_0.bias, .*, or give None"),
    ):
        with pytest.raises(ValueError, match=match):
            learner_of(continual.packnet(3, **options), stream=STREAM)
    with pytest.raises(ValueError, match="packnet has masks for 2 tasks, and the stream has 3 experiences"):
        core.start(learner_of(continual.packnet(2), stream=STREAM))
    replayed = learner_of(continual.er(20), continual.packnet(3), stream=STREAM)
    state, data = core.start(replayed), core.to_device(STREAM)
    anchored = learner_of(continual.packnet(3), continual.ewc(1.0), stream=STREAM)
    with pytest.raises(ValueError, match=r"packnet needs the task of a batch: .* without a task \(ewc, mas\)"):
        jax.eval_shape(anchored.end, core.start(anchored), data, 0)
    with pytest.raises(ValueError, match="packnet learns one task a batch"):
        jax.eval_shape(replayed.step, state, data, 0, 0)
