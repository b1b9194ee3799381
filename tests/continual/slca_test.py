"""SLCA: the slow step, the Gaussians and the aligned head against numpy, and a network that no alignment moves."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from tests.rehearsed import Skipping
from tests.short import short_learner, short_run


@functools.cache
def after_two(steps=60):
    """The learner, and its state after the first and after the second of three experiences."""
    learner = core.make_learner(
        testing.standard_model(),
        continual.slca(0.1, steps=steps, samples=300, learning_rate=0.1),
        optax.adamw(1e-2),
        testing.standard_stream(),
        batch_size=8,
    )
    data = core.to_device(learner.stream)
    first = core.run_experience(learner, core.start(learner), data, 0)
    kept = jax.tree.map(np.asarray, (first.params, first.method_state["slca"]))
    return learner, data, kept, core.run_experience(learner, first, data, 1)


def head_of(params):
    return np.concatenate([params["head"]["kernel"], params["head"]["bias"][None]]).astype(np.float64)


def features_of_the_second():
    """Features and labels of the rows of the second experience, and their inputs."""
    learner, _, _, second = after_two()
    source, train = learner.stream.source, learner.stream.experiences["train"]
    rows = train.rows[1][: train.size[1]]
    inputs = source.train["inputs"][rows][:, np.asarray(learner.stream.origins.view)[1]]
    outputs, _ = testing.standard_model().apply(core.Variables(second.params, second.model_state), inputs)
    return np.asarray(outputs.features, np.float64), source.train["labels"][rows], inputs


def test_a_step_under_the_head_is_a_share_of_the_optimizers_and_at_one_rate_that_of_the_local_loss():
    methods = continual.local_loss(), continual.slca(1.0, steps=0), continual.slca(0.25, steps=0)
    optimizer = optax.sgd(0.1)
    local, plain, slow = (short_run(m, experiences=1, steps=1, optimizer=optimizer).params for m in methods)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), plain, local)
    start = core.start(short_learner(core.identity(), steps=1, optimizer=optimizer)).params
    whole, part = (jax.tree.map(lambda a, b: np.asarray(a - b), params, start) for params in (plain, slow))
    assert np.abs(whole["Dense_0"]["kernel"]).max() > 1e-3
    for name in whole:
        share = 1.0 if name == "head" else 0.25
        for a, b in zip(jax.tree.leaves(whole[name]), jax.tree.leaves(part[name]), strict=True):
            np.testing.assert_allclose(b, share * a, rtol=1e-3, atol=1e-6)


def test_columns_of_other_classes_stay_whatever_adamw_does():
    _, _, (params, _), second = after_two()
    moved = np.abs(head_of(second.params) - head_of(params)).max(0)
    assert moved[[0, 1, 4, 5]].tolist() == [0.0] * 4 and moved[2:4].min() > 1e-3


def test_gaussians_are_those_of_the_features_and_old_ones_stay():
    _, _, (_, mine), second = after_two()
    found, (features, labels, _) = second.method_state["slca"].gaussians, features_of_the_second()
    assert found.counts.tolist() == [25, 25, 19, 18, 0, 0]
    for new, old in zip(found, mine.gaussians, strict=True):
        np.testing.assert_array_equal(new[:2], old[:2])
    for c in (2, 3):
        own = features[labels == c]
        np.testing.assert_allclose(found.means[c], own.mean(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.covariances[c], np.cov(own.T, ddof=0), rtol=1e-3, atol=1e-5)


def test_the_aligned_head_is_that_of_sgd_by_hand_and_answers_over_the_classes_seen():
    """On other samples of the same Gaussians: momentum, decay, a cosine, logits of one length."""
    learner, data, (_, mine), second = after_two()
    later, (features, _, inputs) = second.method_state["slca"], features_of_the_second()
    rng, head = np.random.default_rng(0), head_of(second.params)[:, :4]
    names = np.repeat(np.arange(4), 5000)
    drawn = np.concatenate(
        [
            rng.multivariate_normal(m, k, 5000, method="svd")
            for m, k in zip(*(np.asarray(x, np.float64)[:4] for x in later.gaussians[:2]), strict=True)
        ]
    )
    drawn, before, speed = np.concatenate([drawn, np.ones((len(drawn), 1))], 1), head, np.zeros_like(head)
    idle, coasting = head_of(second.params)[:, 4:], 0.0
    for i in range(60):
        logits = drawn @ head
        length = np.linalg.norm(logits, axis=1, keepdims=True)
        odds = np.exp(logits / length / 0.1)
        error = odds / odds.sum(1, keepdims=True) - np.eye(4)[names]
        error = (error - logits * (logits * error).sum(1, keepdims=True) / length**2) / length / 0.1
        speed = 0.9 * speed + drawn.T @ error / len(drawn) + 5e-4 * head
        coasting = 0.9 * coasting + 5e-4 * idle
        rate = 0.1 * (1 + np.cos(np.pi * i / 60)) / 2
        head, idle = head - rate * speed, idle - rate * coasting
    ours, others = np.split(np.concatenate([later.head.kernel, later.head.bias[None]]), [4], axis=1)
    np.testing.assert_allclose(others, idle, rtol=1e-5, err_msg="columns of classes never seen decay alone")
    assert np.linalg.norm(ours - head) < 0.05 * np.linalg.norm(head - before)

    asked = {"inputs": inputs, "weights": np.ones(len(inputs))}
    answered = np.asarray(jax.jit(learner.predict)(second, data, 1, asked).logits)
    np.testing.assert_allclose(answered[:, :4], features @ ours[:-1] + ours[-1], rtol=1e-3, atol=1e-3)
    assert np.all(answered[:, 4:] < -1e30), "classes never seen are never answered"


def test_an_alignment_leaves_the_network_and_the_first_experience_has_none():
    _, _, (params, mine), second = after_two()
    *_, (plain, _), unaligned = after_two(0)
    for a, b in ((params, plain), (second.params, unaligned.params)):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    np.testing.assert_array_equal(mine.head.kernel, params["head"]["kernel"])
    assert np.abs(second.method_state["slca"].head.kernel - second.params["head"]["kernel"]).max() > 0.01


class _Biasless(nn.Module):
    """BatchNorm, and a head that has a kernel alone."""

    @nn.compact
    def __call__(self, x, *, train=False):
        features = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(4)(x))
        return core.Outputs(nn.Dense(6, use_bias=False, name="head")(features), features)


def test_it_goes_by_the_network_that_a_method_before_it_leaves_and_gives_a_head_no_bias():
    model = core.from_linen(_Biasless())
    method = core.chain(continual.weight_interpolation(0.3), continual.slca(1.0, steps=3, samples=4))
    state, stream = short_run(method, model=model), testing.standard_stream()
    train, mine = stream.experiences["train"], state.method_state["slca"]
    rows = train.rows[1][: train.size[1]]
    inputs = stream.source.train["inputs"][rows][:, np.asarray(stream.origins.view)[1]]
    features = model.apply(core.Variables(state.params, state.model_state), inputs)[0].features
    for c in (2, 3):
        wanted = np.asarray(features)[stream.source.train["labels"][rows] == c].mean(0)
        np.testing.assert_allclose(mine.gaussians.means[c], wanted, rtol=1e-4, atol=1e-5)
    assert np.all(mine.head.bias == 0) and np.abs(mine.head.kernel - state.params["head"]["kernel"]).max() > 1e-4


def test_what_it_refuses():
    for arguments, match in (
        ({"scale": -0.1}, "scale must be 0 or above"),
        ({"steps": -1}, "steps expects a whole number of at least 1, got -1"),
        ({"samples": 0}, "samples expects a whole number of at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"covariance": "low"}, "covariance must be one of 'full', 'diagonal', got 'low'"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.slca(**arguments)
    with pytest.raises(ValueError, match="slca expects what the head is given .*, of width 5, got 12: return that"):
        core.start(short_learner(continual.slca(), model=core.from_linen(Skipping())))
