"""PCR against a loop over pairs of rows and its differences, what it leaves alone, and what it answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core, testing
from tests.losses.proxy_contrastive_test import by_hand
from tests.rehearsed import RATE, Headless, answers, drawn, learner_of, rows_of, second_step, unit

TEMPERATURE = 0.3


def make():
    return continual.pcr(20, temperature=TEMPERATURE)


def angles(params, x):
    """Cosines over the temperature, in float64."""
    w = np.asarray(params["head"]["kernel"], np.float64)
    return unit(answers(params, x)[1]) @ unit(w, axis=0) / TEMPERATURE


def slopes_agree(r, value):
    """The step from `before` to `after` is one of SGD down `value(params)`: along three random ways."""
    before, after = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), s.params) for s in (r.before, r.after))
    rng = np.random.default_rng(0)
    for _ in range(3):
        way = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), before)
        up, down = (value(jax.tree.map(lambda p, d, e=e: p + e * d, before, way)) for e in (1e-6, -1e-6))
        step = jax.tree.map(lambda a, b, d: np.sum((a - b) * d), before, after, way)
        np.testing.assert_allclose(sum(jax.tree.leaves(step)) / RATE, (up - down) / 2e-6, rtol=1e-3, atol=1e-4)


def test_a_step_goes_down_the_contrast_of_incoming_and_replayed_rows_with_all_their_proxies():
    r = second_step(make, rows=8)
    both = [rows_of(r.learner.stream, records) for records in (r.batch, drawn(r, "pcr"))]
    x, labels = map(np.concatenate, zip(*both, strict=True))
    assert set(labels[:8]) == {2, 3} and set(labels[8:]) > {0, 1}

    def value(params):
        return np.mean(by_hand(angles(params, x), labels, np.ones(16)))

    np.testing.assert_allclose(r.loss, value(r.before.params), rtol=1e-5)
    slopes_agree(r, value)
    kernels = [np.asarray(s.params["head"]["kernel"]) for s in (r.before, r.after)]
    assert (kernels[0] != kernels[1]).any(0).tolist() == [True] * 4 + [False] * 2, "absent proxies do not move"


def test_it_answers_with_cosines_among_the_classes_that_came():
    r = second_step(make, rows=8)
    x = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    logits = r.learner.predict(r.after, r.data, 1, {"inputs": jnp.asarray(x), "weights": jnp.ones(5)}).logits
    np.testing.assert_allclose(logits[:, :4], angles(r.after.params, x.astype(np.float64))[:, :4], rtol=1e-4, atol=1e-5)
    assert logits[:, 4:].max() < -1e30


def test_a_task_of_which_nothing_came_is_answered_among_its_own_classes():
    learner = learner_of(continual.pcr(20), stream=testing.standard_stream(task_known=True))
    accuracy = core.evaluate(learner, core.start(learner), core.to_device(learner.stream), 0)["accuracy"]
    assert min(np.asarray(accuracy)) > 0.1, accuracy


def test_what_it_refuses():
    for arguments, match in (
        ({"size": 0}, "size expects a whole number of at least 1, got 0"),
        ({"size": 5, "batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"size": 5, "temperature": 0.0}, "temperature must be above 0"),
        ({"size": 5, "policy": "fifo"}, "policy must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.pcr(**arguments)
    with pytest.raises(ValueError, match="pcr expects the last layer .* name it 'head'"):
        learner_of(continual.pcr(4), model=core.from_linen(Headless()))
