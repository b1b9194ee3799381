"""LUCIR against the losses of a step written out, with weight decay in the optimizer."""

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core
from tests.rehearsed import (
    MODEL,
    Headless,
    answers,
    first_experience,
    learner_of,
    log_softmax,
    rows_of,
    second_step,
    third_step,
    unit,
)

OPTIMIZER = optax.adamw(3e-2, weight_decay=0.1)


def make():
    return continual.lucir(4, lam=3.0, margin=0.9, eta=4.0)


def cosines(params, x):
    features = unit(answers(params, x)[1])
    return features @ unit(np.asarray(params["head"]["kernel"], np.float64), axis=0), features


@pytest.mark.parametrize("at, num_old, rows", [(second_step, 2, 37), (third_step, 4, 66)])
def test_a_step_is_the_sum_of_its_three_losses(at, num_old, rows):
    r = at(make, optimizer=OPTIMIZER)
    x, labels = rows_of(r.learner.stream, r.batch)
    assert set(labels[:8]) <= {num_old, num_old + 1} and set(labels[8:]) <= set(range(num_old))
    ours, features = cosines(r.before.params, x)
    # 4 exemplars of each old class are held.
    weights = np.array([1] * 8 + [4 * num_old / rows] * 8)
    eta = float(r.before.params["eta"])
    assert eta != 4.0, "the scale is trained"
    learned = np.average(-log_softmax(eta * ours)[np.arange(16), labels], weights=weights)
    cosine = np.sum(features * cosines(r.over.params, x)[1], 1)
    turned = 3.0 * np.sqrt(num_old / 2) * np.average(1 - cosine, weights=weights)
    short = [max(0.9 - ours[i, labels[i]] + ours[i, num_old + k], 0) for i in range(8, 16) for k in (0, 1)]
    assert 0 < np.count_nonzero(short) and turned > 1e-4
    np.testing.assert_allclose(r.loss, learned + turned + np.mean(short), rtol=1e-5)


def test_the_nearest_new_classes_are_the_rivals():
    """One rival of two: the larger cosine."""
    one = second_step(make, optimizer=OPTIMIZER)
    hard = continual.lucir(4, lam=3.0, margin=0.9, eta=4.0, num_hard=1)
    learner = learner_of(hard, optimizer=OPTIMIZER)
    state = one.before._replace(method_state={"lucir": one.before.method_state["lucir"]})
    _, record = jax.jit(learner.step)(state, one.data, 1, 1)
    x, labels = rows_of(learner.stream, one.batch)
    ours, _ = cosines(one.before.params, x)
    both = np.maximum(0.9 - ours[np.arange(16), labels][:, None] + ours[:, 2:4], 0)[8:]
    np.testing.assert_allclose(record["loss"] - one.loss, both.max(1).mean() - both.mean(), rtol=1e-3)


def test_weights_of_old_classes_stay_where_they_are():
    r = second_step(make, optimizer=OPTIMIZER)
    kernels = [np.asarray(s.params["head"]["kernel"]) for s in (r.over, r.after)]
    assert np.any(kernels[0] != kernels[1], axis=0).tolist() == [False] * 2 + [True] * 4
    held = np.asarray(r.over.method_state["lucir"].kept.held)
    assert held.tolist() == [[True] * 4] * 2 + [[False] * 4] * 4


def test_the_first_experience_only_trains_with_cosines():
    wrapped = make().model(MODEL)
    plain = first_experience(core.identity(), model=wrapped, optimizer=OPTIMIZER)
    r = second_step(make, optimizer=OPTIMIZER)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), r.trained.params, plain)


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "num expects a whole number of at least 1, got 0"),
        ({"size": 5, "num_hard": 0}, "num_hard expects a whole number of at least 1, got 0"),
        ({"size": 5, "lam": -1.0}, "lam must be 0 or above"),
        ({"size": 5, "margin": -1.0}, "margin must be 0 or above"),
        ({"size": 5, "eta": 0.0}, "eta must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.lucir(**arguments)
    with pytest.raises(ValueError, match="lucir expects the last layer .* name it 'head'"):
        learner_of(continual.lucir(4), model=core.from_linen(Headless()))
