"""DST-CL: steps and changes of the mask against numpy, masks of constant size, and answers that stay to the bit."""

import functools

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, ops
from tests.masked import LAYERS, STREAM, Whole, gradients
from tests.rehearsed import learner_of, rows_of, spy

KERNEL = "dense_0.kernel"


def parts_of(state):
    """The mask of the first task, kernel and bias of the hidden layer, and the first task's output layer."""
    hidden, head = state.params["dense_0"], jax.tree.map(lambda leaf: leaf[0], state.params["head"])
    leaves = (state.frozen["masks"][KERNEL][0], hidden["kernel"], hidden["bias"], head["kernel"], head["bias"])
    mask, *rest = map(np.asarray, leaves)
    return mask, [leaf.astype(np.float64) for leaf in rest]


def test_weights_learn_and_their_mask_follows_the_gradient():
    """Six of seven steps of SGD with momentum; every second one exchanges weights."""
    method = continual.dst_cl(3, density=0.4, every=2, alpha=0.8)
    learner = learner_of(method, spy(8), stream=STREAM, optimizer=optax.sgd(0.5, momentum=0.9))
    data, step = core.to_device(STREAM), jax.jit(learner.step)
    state = jax.jit(learner.begin)(core.start(learner), data, 0)
    mask, (kernel, *others) = parts_of(state)
    assert mask.sum() == 38
    speed = 0.0
    for i in range(6):
        state, _ = step(state, data, 0, i)
        inputs, labels = rows_of(STREAM, state.method_state["spy"])
        seen = dict(zip(LAYERS, (kernel * mask, others[1]), strict=True))
        found = gradients(seen, inputs, labels, np.arange(6) < 2, (others[0], others[2]))[KERNEL]
        speed = found * mask + 0.9 * speed
        kernel = kernel - 0.5 * speed * mask
        if i % 2 == 1:
            away = round(0.4 * (1 + np.cos(np.pi * (i + 1) / 7)) * 38)
            kept = mask & (np.abs(kernel) >= np.sort(np.abs(kernel[mask]))[away])
            size = np.where(kept, -1, np.abs(found))
            grown = size >= np.sort(size.reshape(-1))[-away]
            kernel, old, mask = np.where(grown & ~mask, 0, kernel), mask, kept | grown
            assert mask.sum() == 38 and np.any(mask != old)
        new, (got, *others) = parts_of(state)
        np.testing.assert_array_equal(new, mask)
        np.testing.assert_allclose(got, kernel, atol=1e-5)


def test_random_weights_grow_from_0():
    method = continual.dst_cl(3, density=0.25, layers="uniform", grow="random", every=1, alpha=1.0)
    learner = learner_of(method, stream=STREAM)
    data = core.to_device(STREAM)
    before = jax.jit(learner.begin)(core.start(learner), data, 0)
    after, _ = jax.jit(learner.step)(before, data, 0, 0)
    (old, _), (new, (kernel, *_)) = parts_of(before), parts_of(after)
    assert old.sum() == new.sum() == 24
    away = round((1 + np.cos(np.pi / 7)) / 2 * 24)
    assert np.sum(old & ~new) > away / 4 and np.all(kernel[new & ~old] == 0)
    held = kernel[old & new]
    assert np.abs(kernel[old]).max() == np.abs(held).max() and np.sum(held != 0) >= 24 - away


@functools.cache
def whole():
    return Whole(continual.dst_cl(3, density=0.3, every=2))


def test_masks_have_the_size_that_erk_gives_and_share_weights():
    banks = whole().states[3].frozen["masks"]
    found = ops.erk_density({name: bank.shape[1:] for name, bank in banks.items()}, 0.3)
    for name, bank in banks.items():
        assert bank.sum((1, 2)).tolist() == [round(found[name] * bank[0].size)] * 3
        assert 0 < np.sum(bank[0] & bank[1]) < bank[0].sum()


def test_weights_that_are_owned_stand_still_and_the_others_of_a_mask_learn():
    states = whole().states
    for name, bank in states[3].frozen["masks"].items():
        layer, masks, drawn = name.split(".")[0], np.asarray(bank), states[0].params
        for t in range(3):
            before, after = (np.asarray(states[k].params[layer]["kernel"]) for k in (t, t + 1))
            owned = masks[:t].any(0)
            np.testing.assert_array_equal(states[t].method_state["dst_cl"].owned[name], owned)
            np.testing.assert_array_equal(after[owned], before[owned])
            fresh = masks[t] & ~owned
            assert np.mean(after[fresh] != np.asarray(drawn[layer]["kernel"])[fresh]) > 0.9


def test_what_nobody_owns_starts_where_the_model_drew_it():
    start, learned = whole().states[:2]
    begun = jax.jit(whole().learner.begin)(learned, whole().data, 1)
    for name, owned in learned.method_state["dst_cl"].owned.items():
        drawn, old, new = (np.asarray(x.params[name.split(".")[0]]["kernel"]) for x in (start, learned, begun))
        np.testing.assert_array_equal(new, np.where(owned, old, drawn))
        assert np.any(old != new)


def test_later_experiences_change_no_answer():
    answers = whole().answers
    np.testing.assert_array_equal(answers[2][0], answers[0][0])
    np.testing.assert_array_equal(answers[2][1], answers[1][1])
    assert np.any(answers[1][1] != answers[0][1]) and np.any(answers[2][0] != answers[2][1])


def test_what_it_refuses():
    for arguments, match in (
        ({"num_tasks": 0}, "num_tasks expects a whole number of at least 1, got 0"),
        ({"density": 0.0}, "density must be above 0"),
        ({"density": 1.5}, "density must be between 0 and 1"),
        ({"layers": "even"}, "layers must be one of 'erk', 'uniform'"),
        ({"grow": "momentum"}, "grow must be one of 'gradient', 'random'"),
        ({"every": 0}, "every expects a whole number of at least 1"),
        ({"alpha": 2.0}, "alpha must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.dst_cl(**{"num_tasks": 3, **arguments})
    with pytest.raises(ValueError, match=r"dst_cl: density=0.004 leaves no weight of dense_0.kernel \(12, 8\)"):
        learner_of(continual.dst_cl(3, density=0.004), stream=STREAM)
    with pytest.raises(ValueError, match="dst_cl has masks for 2 tasks, and the stream has 3 experiences"):
        core.start(learner_of(continual.dst_cl(2), stream=STREAM))
    replayed = learner_of(continual.er(20), continual.dst_cl(3), stream=STREAM)
    state, data = core.start(replayed), core.to_device(STREAM)
    with pytest.raises(ValueError, match="dst_cl learns one task a batch"):
        jax.eval_shape(replayed.step, state, data, 0, 0)
