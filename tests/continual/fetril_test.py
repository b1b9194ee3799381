"""FeTrIL: what it keeps and lends against numpy, and a network that stays."""

import functools

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from ctrain_jax.continual.representation import _fetril
from tests.short import short_learner


@functools.cache
def after_two():
    """The learner, and its state after the first and after the second of three experiences."""
    learner = core.make_learner(
        testing.standard_model(),
        continual.fetril(steps=150, batch_size=2048),
        optax.adamw(1e-2),
        testing.standard_stream(),
        batch_size=8,
    )
    data = core.to_device(learner.stream)
    first = core.run_experience(learner, core.start(learner), data, 0)
    kept = jax.tree.map(np.asarray, (first.params, first.model_state, first.method_state["fetril"]))
    return learner, data, kept, core.run_experience(learner, first, data, 1)


def test_the_network_stays_and_the_means_are_those_of_its_features():
    learner, data, (params, statistics, mine), second = after_two()
    for a, b in zip(
        jax.tree.leaves((params, statistics)), jax.tree.leaves((second.params, second.model_state)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    start = core.start(learner)
    for a, b in zip(jax.tree.leaves(start.params), jax.tree.leaves(params), strict=True):
        assert not np.array_equal(a, b), "the first experience is learned"
    later = second.method_state["fetril"]
    np.testing.assert_array_equal(later.means[:2], mine.means[:2])
    assert later.counts.tolist() == [25, 25, 19, 18, 0, 0]
    features, labels, _ = rows_of_the_second()
    for c in (2, 3):
        np.testing.assert_allclose(later.means[c], features[labels == c].mean(0), rtol=1e-5, atol=1e-5)


def rows_of_the_second():
    """Features and labels of the rows of the second experience, and their inputs."""
    learner, _, _, second = after_two()
    source, train = learner.stream.source, learner.stream.experiences["train"]
    rows = train.rows[1][: train.size[1]]
    inputs = source.train["inputs"][rows][:, np.asarray(learner.stream.origins.view)[1]]
    outputs, _ = testing.standard_model().apply(core.Variables(second.params, second.model_state), inputs)
    return np.asarray(outputs.features, np.float64), source.train["labels"][rows], inputs


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_head_is_fit_to_translated_rows_of_the_class_whose_mean_is_nearest_by_cosine():
    """Adam by hand, on all that the method draws from."""
    learner, data, _, second = after_two()
    later, (features, labels, inputs) = second.method_state["fetril"], rows_of_the_second()
    means = np.asarray(later.means, np.float64)
    made, names, shares = [], [], []
    for c in range(4):
        lender = c if c in (2, 3) else max((2, 3), key=lambda n, c=c: units(means[c]) @ units(means[n]))
        lent = features[labels == lender] - means[lender] + means[c]
        made.append(np.concatenate([units(lent), np.ones((len(lent), 1))], 1))
        names += [c] * len(lent)
        shares += [1 / 4 / len(lent)] * len(lent)
    made, wanted, shares = np.concatenate(made), np.eye(4)[names], np.asarray(shares)[:, None]
    head, speed, scale = (np.zeros((made.shape[1], 4)) for _ in range(3))
    for i in range(150):
        odds = np.exp(made @ head)
        grads = made.T @ (shares * (odds / odds.sum(1, keepdims=True) - wanted))
        speed, scale = 0.9 * speed + 0.1 * grads, 0.999 * scale + 0.001 * grads**2
        step = speed / (1 - 0.9 ** (i + 1)) / (np.sqrt(scale / (1 - 0.999 ** (i + 1))) + 1e-8)
        head -= 0.05 * (1 + np.cos(np.pi * i / 150)) / 2 * step
    plain = np.concatenate([later.head.kernel, later.head.bias[None]])[:, :4]
    assert np.abs(made @ plain - made @ head).max() < 0.15 * np.abs(made @ head).max()

    asked = {"inputs": inputs, "weights": np.ones(len(inputs))}
    answered = np.asarray(jax.jit(learner.predict)(second, data, 1, asked).logits)
    np.testing.assert_allclose(answered[:, :4], units(features) @ plain[:-1] + plain[-1], rtol=1e-3, atol=1e-3)
    assert np.all(answered[:, 4:] < -1e30), "classes never seen are never answered"


def test_the_lender_is_the_nearest_by_cosine_and_of_the_experience():
    means = np.array([[1.0, 0.1], [0.0, 9.0], [5.0, 1.0], [0.1, 1.0]], np.float32)
    arrived = np.array([False, False, True, True])
    assert _fetril.lenders(means, means, arrived).tolist() == [2, 3, 2, 3]


def test_what_it_refuses():
    for arguments, match in (
        ({"steps": 0}, "steps expects a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size expects a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.fetril(**arguments)


def test_the_network_stays_wherever_it_stands_in_a_chain():
    fetril = continual.fetril(steps=3, batch_size=8)
    for chain in (core.chain(continual.refresh(1e-2), fetril), core.chain(fetril, continual.refresh(1e-2))):
        learner = short_learner(chain, steps=4)
        data = core.to_device(learner.stream)
        state = core.run_experience(learner, core.start(learner), data, 0)
        first = jax.tree.map(np.array, state.params)
        second = core.run_experience(learner, state, data, 1).params
        pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
