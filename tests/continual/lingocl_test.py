"""LingoCL against cosines written out in numpy, with weight decay in the optimizer."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, testing
from tests.rehearsed import MODEL, Headless, Skipping, answers, first_experience, learner_of, unit

TARGETS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
X = testing.standard_stream().source.train["inputs"][:9]


class Linear(nn.Module):
    """The projection as a hidden layer, and the identity as the head."""

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.relu(nn.Dense(8, name="dense_0")(inputs))
        return core.Outputs(nn.Dense(5, use_bias=False, name="projection")(hidden))


def made(**options):
    model = continual.lingocl(TARGETS, scale=3.0, **options).model(MODEL)
    variables = model.init(jax.random.key(1), X)
    return variables, model.apply(variables, X)[0]


def test_logits_are_scaled_cosines_whatever_the_length_of_a_target():
    variables, outputs = made()
    assert "head" not in variables.params
    _, features = answers({**variables.params, "head": variables.frozen["head"]}, X)
    placed = features @ np.asarray(variables.params["projection"], np.float64)
    np.testing.assert_allclose(outputs.logits, 3 * unit(placed) @ unit(TARGETS).T, rtol=1e-5, atol=1e-5)


def test_without_a_map_features_themselves_are_compared():
    targets = np.eye(6, 8, dtype=np.float32)
    model = continual.lingocl(targets, project=False, learn_scale=True).model(MODEL)
    variables = model.init(jax.random.key(1), X)
    assert set(variables.params) == {"dense_0", "scale"}
    _, features = answers({**variables.params, "head": variables.frozen["head"]}, X)
    expected = unit(features)[:, :6] / 0.07
    np.testing.assert_allclose(model.apply(variables, X)[0].logits, expected, rtol=1e-5, atol=1e-5)


def test_training_is_that_of_a_network_that_ends_in_the_cosines():
    """Seven steps of AdamW from the same parameters: a plain net with a fixed last product."""
    method, tx = continual.lingocl(TARGETS, scale=3.0), optax.adamw(1e-2, weight_decay=0.1)
    trained = first_experience(method, optimizer=tx)
    net = core.from_linen(Linear())

    def init(rng, inputs):
        start = dict(method.model(MODEL).init(rng, inputs).params)
        return core.Variables({**start, "projection": {"kernel": start["projection"]}}, {})

    def apply(variables, inputs, **options):
        outputs, state = net.apply(variables, inputs, **options)
        lengths = jax.numpy.linalg.norm(outputs.logits, axis=-1, keepdims=True)
        return core.Outputs(3 * outputs.logits / lengths @ unit(TARGETS).T), state

    plain = first_experience(core.identity(), model=core.Model(init, apply), optimizer=tx)
    plain = {**plain, "projection": plain["projection"]["kernel"]}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), trained, plain)


def test_a_class_more_leaves_the_logits_of_the_others():
    model = continual.lingocl(np.concatenate([TARGETS, TARGETS[:1] + 1]), scale=3.0)
    model = model.model(core.from_linen(models.MLP(7, hidden=(8,))))
    more = model.apply(model.init(jax.random.key(1), X), X)[0].logits
    np.testing.assert_array_equal(more[:, :6], made()[1].logits)


def test_a_row_of_no_features_has_finite_gradients():
    model = continual.lingocl(TARGETS).model(MODEL)
    variables = model.init(jax.random.key(1), X)
    grads = jax.grad(lambda p: model.apply(variables._replace(params=p), 0 * X)[0].logits.sum())(variables.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_what_it_refuses():
    for targets, options, match in (
        (TARGETS[0], {}, "targets expects finite rows"),
        (TARGETS * np.nan, {}, "targets expects finite rows"),
        (TARGETS * 0, {}, "that are not 0"),
        (TARGETS, {"scale": 0.0}, "scale must be above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            continual.lingocl(targets, **options)
    for targets, options, match in (
        (TARGETS[:4], {}, r"lingocl expects targets \[6, E\] for this model, got \[4, 5\]"),
        (TARGETS, {"project": False}, r"lingocl expects targets \[6, 8\] for this model, got \[6, 5\]"),
    ):
        with pytest.raises(ValueError, match=match):
            learner_of(continual.lingocl(targets, **options))
    for module, match in ((Headless(), "the last layer .* name it 'head'"), (Skipping(), "of width 5, got 12")):
        with pytest.raises(ValueError, match=f"lingocl expects .*{match}"):
            learner_of(continual.lingocl(TARGETS), model=core.from_linen(module))
