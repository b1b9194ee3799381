"""WA against the loss of a step and the aligned weights written out."""

import jax
import numpy as np
import pytest

from ctrain_jax import continual, core
from tests.rehearsed import (
    Headless,
    answers,
    first_experience,
    learner_of,
    log_softmax,
    rows_of,
    second_step,
    third_step,
)


def make():
    return continual.wa(4, temperature=3.0)


@pytest.mark.parametrize("at, num_old, rows", [(second_step, 2, 37), (third_step, 4, 66)])
def test_a_step_mixes_labels_and_the_old_network_on_the_union(at, num_old, rows):
    r = at(make)
    x, labels = rows_of(r.learner.stream, r.batch)
    assert set(labels[:8]) <= {num_old, num_old + 1} and set(labels[8:]) <= set(range(num_old))
    ours, old = answers(r.before.params, x)[0], answers(r.over.params, x)[0]
    wanted = np.exp(log_softmax(old[:, :num_old] / 3))
    distilled = -np.sum(wanted * log_softmax(ours[:, :num_old] / 3), 1)
    learned = -log_softmax(ours)[np.arange(16), labels]
    lam = num_old / (num_old + 2)
    # 4 exemplars of each old class are held.
    weights = [1] * 8 + [4 * num_old / rows] * 8
    np.testing.assert_allclose(r.loss, np.average((1 - lam) * learned + lam * distilled, weights=weights), rtol=1e-5)


def test_weights_of_new_classes_become_as_long_as_those_of_old_ones():
    r = second_step(make)
    before, after = (np.asarray(s.params["head"]["kernel"], np.float64) for s in (r.after, r.end(r.after, r.data, 1)))
    lengths = np.linalg.norm(before, axis=0)
    gamma = lengths[:2].mean() / lengths[2:4].mean()
    assert abs(gamma - 1) > 0.01, "there is something to align in this example"
    expected = before * np.array([1, 1, gamma, gamma, 1, 1])
    np.testing.assert_allclose(after, expected, rtol=1e-5)


def test_the_first_experience_is_plain_training():
    r = second_step(make)
    plain = first_experience(core.identity())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), r.trained.params, plain)
    jax.tree.map(np.testing.assert_array_equal, r.trained.params, r.over.params)


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "num expects a whole number of at least 1, got 0"),
        ({"size": 5, "temperature": 0.0}, "temperature must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.wa(**arguments)
    learner = learner_of(continual.wa(4), model=core.from_linen(Headless()))
    with pytest.raises(ValueError, match=r"wa expects the last layer as params\['head'\] .* Dense_0: name it 'head'"):
        core.start(learner)
