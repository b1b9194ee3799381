"""OVOR: outliers against all distances in numpy, the head's steps by hand, and all that stays."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import continual, core, testing
from ctrain_jax.continual.regularization import _ovor
from tests.rehearsed import Headless, Skipping, learner_of
from tests.short import short_learner


def remoteness(points, rows, k):
    """The distance to the k-th nearest row."""
    return np.sort(np.linalg.norm(points[:, None] - rows[None], axis=-1), axis=1)[:, min(k, len(rows)) - 1]


@pytest.mark.parametrize("k, border", [(4, 6), (40, 40)], ids=["usual", "more than there are"])
def test_outliers_are_the_remotest_points_around_the_remotest_features(k, border):
    rng, key = np.random.default_rng(0), jax.random.key(3)
    # Far from 0, where squares of float32 would leave nothing of distances.
    features = (1000 + rng.normal(size=(50, 3))).astype(np.float32)
    features[30:] += 100  # beyond the experience
    got = _ovor.virtual_outliers(key, features, jnp.int32(30), 0.5, num=9, k=k, border=border, candidates=7)
    rows = features[:30].astype(np.float64)
    order = np.argsort(-remoteness(rows, rows, k), kind="stable")
    spread = 0.5 * np.sqrt(rows.var(0).mean())
    made = [
        rows[order[i % 30]] + spread * np.asarray(jax.random.normal(own, (7, 3)))
        for i, own in enumerate(jax.random.split(key, border))
    ]
    made = np.concatenate(made)
    wanted = made[np.argsort(-remoteness(made, rows, k))[:9]]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-3)


def test_distances_are_never_as_many_as_the_square_of_the_rows():
    def outliers(key, features):
        return _ovor.virtual_outliers(key, features, 4000, 1.0, num=1, k=2, border=1, candidates=1)

    rows = jax.ShapeDtypeStruct((4000, 2), jnp.float32)
    compiled = jax.jit(outliers).lower(jax.random.key(0), rows).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 4000**2 / 2


def test_the_hinge_is_0_inside_its_margin_and_then_a_half_square_and_then_a_line():
    values, grads = jax.vmap(jax.value_and_grad(_ovor.hinge))(jnp.array([-2.0, -0.5, 0.5, 3.0]))
    np.testing.assert_allclose(values, [0.0, 0.0, 0.125, 2.5])
    np.testing.assert_allclose(grads, [0.0, 0.0, 0.5, 1.0])


def test_the_head_takes_the_steps_of_adam_by_hand_and_all_else_stays(monkeypatch):
    """On all rows and all outliers at once, where the method draws 4,096 of each."""
    far = np.random.default_rng(1).normal(size=(30, 16)).astype(np.float32) * 3
    monkeypatch.setattr(_ovor, "virtual_outliers", lambda *given, num, **sizes: jnp.asarray(far)[:num])
    method = continual.ovor(
        0.7, inside=4.0, outside=1.0, steps=40, learning_rate=0.05, batch_size=4096, num=30, border=30, candidates=1
    )
    learner = short_learner(core.chain(continual.local_loss(), method), steps=6)
    data, t = core.to_device(learner.stream), jnp.int32(1)

    @jax.jit
    def run(key, data):
        state, _ = learner.chunk(learner.begin(learner.init(key), data, t), data, t, 0, 6)
        return state, learner.end(state, data, t)

    before, after = run(jax.random.key(0), data)
    for name in before.params:
        if name != "head":
            jax.tree.map(np.testing.assert_array_equal, before.params[name], after.params[name])
    jax.tree.map(np.testing.assert_array_equal, before.model_state, after.model_state)

    train = learner.stream.experiences["train"]
    rows = train.rows[1][: train.size[1]]
    inputs = learner.stream.source.train["inputs"][rows][:, np.asarray(learner.stream.origins.view)[1]]
    labels = learner.stream.source.train["labels"][rows]
    features = testing.standard_model().apply(core.Variables(before.params, before.model_state), inputs)[0].features

    def with_ones(x):
        return np.concatenate([np.asarray(x, np.float64), np.ones((len(x), 1))], 1)

    def whole(params):
        return np.concatenate([params["head"]["kernel"], params["head"]["bias"][None]]).astype(np.float64)

    real, outliers, start = with_ones(features), with_ones(far), whole(before.params)
    head, speed, scale = start[:, 2:4], 0.0, 0.0
    for i in range(40):
        grads = 0.0
        for x, real_ones in ((real, True), (outliers, False)):
            odds = np.exp(x @ head)
            score, odds = np.log(odds.sum(1, keepdims=True)), odds / odds.sum(1, keepdims=True)
            slope = -np.clip(4.0 - score, 0, 1) if real_ones else np.clip(score - 1.0, 0, 1)
            error = 0.7 * slope * odds + (odds - np.eye(2)[labels - 2] if real_ones else 0.0)
            grads = grads + x.T @ error / len(x)
        speed, scale = 0.9 * speed + 0.1 * grads, 0.999 * scale + 0.001 * grads**2
        step = speed / (1 - 0.9 ** (i + 1)) / (np.sqrt(scale / (1 - 0.999 ** (i + 1))) + 1e-8)
        head = head - 0.05 * (1 + np.cos(np.pi * i / 40)) / 2 * step
    got = whole(after.params)
    assert np.linalg.norm(got[:, 2:4] - head) < 0.05 * np.linalg.norm(head - start[:, 2:4])
    np.testing.assert_array_equal(got[:, [0, 1, 4, 5]], start[:, [0, 1, 4, 5]])


def test_a_head_without_a_bias_gets_none():
    """Rows that are their own features, at 1 and at -1: a bias would carry most of the score."""
    method = continual.ovor(steps=3, learning_rate=0.1, batch_size=64, num=4, k=1, border=4, candidates=1)
    rows = jnp.asarray([[1.0], [-1.0]] * 8)
    spec = SimpleNamespace(max_rows=16, num_classes=3, outputs=core.Outputs(None, rows))
    batch = {"inputs": rows, "task": None, "position": jnp.arange(16), "labels": jnp.arange(16) % 2}
    ctx = SimpleNamespace(
        spec=spec,
        experience=SimpleNamespace(size=16, classes=jnp.array([True, True, False])),
        rng=jax.random.key(0),
        forward=lambda params, inputs, **given: (core.Outputs(None, inputs), ()),
        scan=lambda add, carry, size: add(carry, batch, 0),
    )
    kernel = jnp.array([[0.1, -0.1, 5.0]])
    ends = []
    for bias in ({}, {"bias": jnp.zeros(3)}):
        ts = core.TrainState(0, {"head": {"kernel": kernel} | bias}, (), (), (), {}, ctx.rng)
        ends.append(method.end(method.init(ctx.rng, ts.params, ctx), ts, ctx)[1].params["head"])
    assert list(ends[0]) == ["kernel"] and list(ends[1]) == ["kernel", "bias"]
    assert np.abs(ends[1]["bias"][:2]).min() > 0.1 and not np.array_equal(ends[0]["kernel"], ends[1]["kernel"])


def test_what_it_refuses():
    for arguments, match in (
        ({"lam": -1.0}, "lam must be 0 or above"),
        ({"noise": -1.0}, "noise must be 0 or above"),
        ({"inside": 2.0}, "inside - outside must be 0 or above"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"k": 0}, "k expects a whole number of at least 1, got 0"),
        ({"num": 40_000}, "num=40000 of border . candidates = 30000 outliers: lower num"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.ovor(**arguments)
    for model, match in (
        (Headless(), "ovor expects the last layer .* name it 'head'"),
        (Skipping(), "ovor expects what the head is given as the features of the model, of width 5, got 12"),
    ):
        with pytest.raises(ValueError, match=match):
            core.start(learner_of(continual.ovor(), model=core.from_linen(model)))
